"""`predict` in worker processes: the same scores, and a decoder that crashes, hangs or eats memory fails one video only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import PredictConfig, RunOptions, predict, predict_faces
from pipelines.errors import ConfigError
from pipelines.scoring.score_files import read_scores
from tests.conftest import Deepfake
from tests.support import REPOSITORY
from tests.synthetic import write_video

FAULTS = REPOSITORY / "tests" / "faults"
MOST_MEMORY_MB = 2500
"""More than torch and the networks take, by far."""


@pytest.fixture
def config(checkpoint: Path) -> PredictConfig:
    return PredictConfig(checkpoint=str(checkpoint))


@pytest.mark.slow
def test_a_decoder_that_crashes_hangs_or_eats_memory_costs_that_video_only(
    config: PredictConfig, clip: Path, forged_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(FAULTS), str(REPOSITORY))))
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, name in enumerate(("crash", "eat", "hang")):
        write_video(folder / f"{name}.mp4", num_frames=4 + number)
    (folder / "text.mp4").write_text("no video")
    shown = []
    options = RunOptions(isolate=True, workers=2, timeout_seconds=20, max_memory_mb=MOST_MEMORY_MB)
    summary = predict(
        [folder, clip, forged_clip],
        config,
        options,
        output=tmp_path / "s.csv",
        on_row=lambda row: shown.append(row.video),
    )
    rows = {Path(row.video).stem: row for row in summary.rows}
    assert shown == [row.video for row in summary.rows]
    assert {name: row.status for name, row in rows.items()} == {
        "crash": "failed", "hang": "failed", "eat": "failed", "text": "unreadable", "astronaut": "ok", "astronaut-forged": "ok"
    }  # fmt: skip
    for name, reason in (("crash", "Segmentation fault"), ("hang", "--timeout 20"), ("eat", "--max-memory 2500 MiB")):
        assert reason in (rows[name].error or "")
    assert {row.video: row.status for row in read_scores(tmp_path / "s.csv")} == {
        row.video: row.status for row in summary.rows
    }
    alone = predict([clip, forged_clip], config).rows
    for row in alone:
        assert rows[Path(row.video).stem].fake_probability == pytest.approx(row.fake_probability, abs=1e-5)


@pytest.mark.isolated
def test_the_command_works_in_other_processes_and_a_wrong_setting_ends_it(
    deepfake: Deepfake, config: PredictConfig, faces_workspace: Path, clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    log_file = tmp_path / "log"
    result = deepfake(
        "predict", "--faces", faces_workspace, "--checkpoint", checkpoint, "--json", "--log-file", log_file
    )
    assert result.exit_code == 0, result.stderr
    there = {row["video"]: row for row in map(json.loads, result.stdout.splitlines())}
    here = predict_faces(faces_workspace, config).rows
    assert [row.video for row in here] == list(there)
    for row in here:
        assert there[row.video]["fake_probability"] == pytest.approx(row.fake_probability, abs=1e-5)
    refused = deepfake("predict", clip, "--checkpoint", checkpoint, "--device", "quantum")
    assert refused.exit_code == 2 and "unknown device 'quantum'" in refused.stderr


def test_limits_without_processes_are_refused() -> None:
    for limit in ({"timeout_seconds": 1.0}, {"max_memory_mb": 100}):
        with pytest.raises(ConfigError, match="needs worker processes"):
            RunOptions(**limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timeout must be > 0"):
        RunOptions(isolate=True, timeout_seconds=0)


@pytest.mark.slow
def test_a_signal_lets_the_video_in_work_end_and_a_later_run_does_the_rest(
    checkpoint: Path, clip: Path, forged_clip: Path, tmp_path: Path
) -> None:
    """As in a terminal, where every process of the command is signalled."""
    videos = [clip, forged_clip, *(write_video(tmp_path / f"{i}.mp4", num_frames=4 + i) for i in range(4))]
    output = tmp_path / "scores.csv"
    command = [
        sys.executable, "-m", "deepfake_cli", "predict", *map(str, videos), "--checkpoint", str(checkpoint),
        "-o", str(output), "--workers", "1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        rest, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr
    assert "finishing the videos in progress" in stderr
    shown = len(re.findall(r"\.mp4  ", first + rest))
    assert 1 <= shown <= 3
    assert not output.exists() and output.with_name("scores.csv.journal").is_file()
    summary = predict(videos, PredictConfig(checkpoint=str(checkpoint)), output=output)
    assert summary.reused == shown and len(summary.rows) == 6

"""Progress: a bar for each task on a terminal; elsewhere lines on stderr and in the log file."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from deepfake_cli import progress
from deepfake_cli.options import start_logging
from deepfake_cli.progress import ProgressBar
from pipelines.system.progress import Progress
from tests.conftest import Deepfake
from tests.synthetic import write_video


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which a test lets pass."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


EVENTS = [
    (0, Progress("predict", 100, 1000, "video"), None),
    (20, Progress("predict", 110, 1000, "video"), None),
    (11, Progress("predict", 131, 1000, "video"), "predict: 131 of 1,000 videos (13 %), about 14 min left"),
    (20, Progress("predict", 140, 1000, "video"), None),
    (11, Progress("predict", 998, 1000, "video", "note"), "predict: 998 of 1,000 videos (99 %), about 0 s left (note)"),
    (40, Progress("train", 3, 9, "batch"), None),
    (31, Progress("train", 3, 9, "batch"), "train: 3 of 9 batches (33 %)"),
    (7200, Progress("train", 4, 9, "batch"), "train: 4 of 9 batches (44 %), about 10 h 03 min left"),
    (40, Progress("pull", 0, 0, "B"), None),
    (40, Progress("pull", 12_000_000, 0, "B"), "pull: 12 MB"),
]


def test_a_line_comes_every_half_minute_with_what_is_done_and_left(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("pipelines").propagate = True
    caplog.set_level(logging.INFO, "pipelines")
    with ProgressBar(quiet=False) as bar:
        for seconds, event, line in EVENTS:
            clock[0] += seconds
            caplog.clear()
            bar(event)
            assert [record.getMessage() for record in caplog.records] == ([line] if line else [])


@pytest.mark.parametrize(("quiet", "is_shown"), [(False, True), (True, False)])
def test_quiet_lines_go_to_the_log_file_alone(
    clock: list[float], capsys: pytest.CaptureFixture[str], tmp_path: Path, quiet: bool, is_shown: bool
) -> None:
    start_logging(quiet=quiet, verbose=False, log_file=tmp_path / "log")
    with ProgressBar(quiet=quiet) as bar:
        for done in (0, 5):
            clock[0] += 60
            bar(Progress("predict", done, 10, "video"))
    assert ("5 of 10 videos" in capsys.readouterr().err) is is_shown
    assert "5 of 10 videos (50 %), about 60 s left" in (tmp_path / "log").read_text()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_each_task_has_a_bar_with_its_own_name_and_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar(quiet=False) as bar:
        for event in (Progress("predict", 0, 6, "video"), Progress("predict", 6, 6, "video")):
            bar(event)
        for event in (Progress("evaluate", 0, 36, "face"), Progress("evaluate", 36, 36, "face")):
            bar(event)
        bar(Progress("evaluate", 0, 9, "face"))
    shown = terminal.getvalue()
    assert "predict:" in shown and "0/6" in shown
    assert "evaluate:" in shown and "0/36" in shown and "0/9" in shown
    assert "36/6" not in shown and "36/9" not in shown


def test_a_command_whose_output_is_redirected_tells_how_far_it_is(
    deepfake: Deepfake, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    for number in range(2):
        write_video(tmp_path / f"{number}.mp4", num_frames=4 + number)
    result = deepfake("predict", tmp_path, "--checkpoint", checkpoint)
    assert "predict: 1 of 2 videos (50 %)" in result.stderr
    assert "predict:" not in result.stdout

"""Two runs on one workspace, or on one output, do not meet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import (
    ExtractConfig,
    PredictConfig,
    RunOptions,
    Shard,
    extract_frames,
    import_faces,
    predict,
)
from pipelines.errors import ConfigError
from pipelines.scoring.score_files import Journal
from pipelines.workspace.lock import hold_stage
from tests.synthetic import write_video

CONFIG = ExtractConfig(frames=1)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", num_frames=2 + number)
    return folder


def _extract(videos: Path, work: Path, shard: Shard | None = None) -> Callable[[], object]:
    return lambda: extract_frames([videos], work, CONFIG, RunOptions(shard=shard))


def test_a_stage_in_work_is_left_alone_and_goes_on_when_it_is_free(videos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with hold_stage(work, "extract-frames"):
        for shard in (None, Shard(1, 2)):
            with pytest.raises(ConfigError, match=r"another run of extract-frames is at work in .*work; wait"):
                _extract(videos, work, shard)()
        assert not (work / "extract-frames").exists()
    _extract(videos, work)()
    assert (work / "extract-frames" / "manifest.parquet").is_file()


def test_shards_run_side_by_side_each_once_and_nothing_else_beside_them(videos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with hold_stage(work, "extract-frames", Shard(1, 2)):
        _extract(videos, work, Shard(2, 2))()
        for run in (_extract(videos, work, Shard(1, 2)), _extract(videos, work)):
            with pytest.raises(ConfigError, match="another run"):
                run()
    _extract(videos, work, Shard(1, 2))()
    with hold_stage(work, "extract-frames", Shard(1, 2)), pytest.raises(ConfigError, match="another run"):
        _extract(videos, work)()
    _extract(videos, work)()


def test_importing_faces_and_finding_them_keep_out_of_each_other_s_way(videos: Path, tmp_path: Path) -> None:
    faces = tmp_path / "faces" / "real"
    faces.mkdir(parents=True)
    (faces / "a.png").write_bytes(b"")
    with hold_stage(tmp_path / "work", "detect-faces"), pytest.raises(ConfigError, match="another run of detect-faces"):
        import_faces(faces.parent, tmp_path / "work")


def test_a_lock_goes_with_the_process_that_held_it(videos: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pipelines.workspace.lock import hold_stage\n"
        "with hold_stage(sys.argv[1], 'extract-frames'):\n    print('held', flush=True); time.sleep(600)"
    )
    work = tmp_path / "work"
    with subprocess.Popen([sys.executable, "-c", script, str(work)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another run"):
            _extract(videos, work)()
        holder.kill()
    _extract(videos, work)()


def test_an_output_in_work_is_left_alone(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    output, config = tmp_path / "scores.csv", PredictConfig(checkpoint=str(checkpoint))
    for options in (RunOptions(), RunOptions(overwrite=True)):
        with Journal.for_output(output, "0" * 64), pytest.raises(ConfigError, match="another run is writing next to"):
            predict([videos], config, options, output=output)
        assert not list(tmp_path.glob("scores.*"))
    predict([videos], config, output=output)
    assert [path.name for path in tmp_path.glob("scores.*")] == ["scores.csv"]

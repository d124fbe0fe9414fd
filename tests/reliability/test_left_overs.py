"""What a run that was killed had in work goes with the next run that is finished, whoever asks for the item again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import ExtractConfig, RunOptions, Shard, extract_frames
from tests.support import temporary_files
from tests.synthetic import write_video

FRAMES = ExtractConfig(frames=2)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A workspace with an unfinished item that no later run asks for."""
    write_video(tmp_path / "a.mp4", num_frames=3, size=(64, 48))
    stage = tmp_path / "work" / "extract-frames"
    (stage / "frames" / ".0123456789abcdef.tmp").mkdir(parents=True)
    (stage / "frames" / ".0123456789abcdef.tmp" / "00000000.png").write_bytes(b"half")
    (stage / "parts").mkdir()
    (stage / "parts" / ".0123456789abcdef.parquet.tmp").write_bytes(b"half")
    return tmp_path / "work"


def test_a_finished_run_leaves_nothing_that_was_in_work(work: Path) -> None:
    summary = extract_frames([work.parent / "a.mp4"], work, FRAMES)
    assert [row.status for row in summary.videos] == ["ok"]
    assert temporary_files(work) == []
    assert len(list(work.rglob("*.png"))) == 2


def test_a_shard_leaves_alone_what_others_have_in_work_until_a_run_over_everything(work: Path) -> None:
    before = temporary_files(work)
    assert len(before) == 2
    extract_frames([work.parent / "a.mp4"], work, FRAMES, RunOptions(shard=Shard(1, 1)))
    assert temporary_files(work) == before
    extract_frames([work.parent / "a.mp4"], work, FRAMES)
    assert temporary_files(work) == []

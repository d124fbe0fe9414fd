"""Every common kind of clip is read to the frame, and what cannot be read is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UnreadableError
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames
from tests.hostile.corpus import CORPUS, Entry, has_encoder
from tests.synthetic import is_upright, read_number

TICK_MS = 2
READABLE = [entry for entry in CORPUS if entry.refusal is None]
REFUSED = [entry for entry in CORPUS if entry.refusal is not None]


def _write(entry: Entry, folder: Path) -> Path:
    if not has_encoder(entry.encoder):
        pytest.skip(f"this FFmpeg has no encoder {entry.encoder}")
    return entry.write(folder)


@pytest.mark.parametrize("entry", READABLE, ids=lambda entry: entry.name)
def test_a_clip_gives_each_frame_at_its_place_and_time(tmp_path: Path, entry: Entry) -> None:
    path = _write(entry, tmp_path)
    with open_video(path) as video:
        chosen = ChosenFrames(video, path, count=entry.num_frames)
        frames = list(chosen)
    assert [read_number(frame.image) for frame in frames] == list(range(entry.num_frames))
    assert {frame.image.shape for frame in frames} == {(*entry.size_px[::-1], 3)}
    assert entry.name == "tiny.mp4" or all(is_upright(frame.image) for frame in frames)
    times_ms = np.array([1000 * frame.pts_seconds for frame in frames])
    assert times_ms - times_ms[0] == pytest.approx(entry.shown_ms, abs=TICK_MS)
    assert entry.first_ms is None or times_ms[0] == pytest.approx(entry.first_ms, abs=TICK_MS)
    assert re.search(entry.warning, chosen.note or "") if entry.warning else chosen.note is None


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry.name)
def test_a_clip_without_frames_is_refused_by_name(tmp_path: Path, entry: Entry) -> None:
    path = _write(entry, tmp_path)
    with (
        pytest.raises(UnreadableError, match=f"^{re.escape(entry.name)}.*({entry.refusal})"),
        open_video(path) as video,
    ):
        list(video.frames(range(video.info.num_frames)))


def test_entries_have_names_of_their_own() -> None:
    names = [entry.name for entry in CORPUS]
    assert len(set(names)) == len(names)

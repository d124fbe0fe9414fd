"""DeepFakeDetection: actors in everyday scenes, and face swaps between them, distributed with FaceForensics++."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pipelines.datasets.dataset import Dataset, Listing
from pipelines.datasets.ffpp_tree import COMPRESSIONS, FAKES, REALS, Part, count_part, find_parts, make_key
from pipelines.datasets.layout import find_base, no_layout
from pipelines.records import VideoRow

NAME = "dfd"
REAL_SOURCE, METHOD = "actors", "DeepFakeDetection"
NUM_REAL, NUM_FAKE = 363, 3068
_SCENE = r"(?P<scene>[A-Za-z0-9]+(_[A-Za-z0-9]+)*)"
_REAL_NAME = re.compile(rf"(?P<actor>\d{{2}})__{_SCENE}")
_FAKE_NAME = re.compile(rf"(?P<target>\d{{2}})_(?P<source>\d{{2}})__{_SCENE}__[A-Za-z0-9]{{8}}")


def list_dfd(root: Path) -> Listing:
    """The videos of DeepFakeDetection at every compression found; `raw` counts as `c0`.

    `07_12__scene__1ZDX4YO3` shows the actor 07 in that scene with the face of the actor 12; the last eight characters tell
    recordings of one pair apart. There is no official split: every video is for testing in the literature.

    Raises:
        DatasetError: another layout.
    """
    base = find_base(root, (REALS, REAL_SOURCE), (FAKES, METHOD))
    if base is None:
        raise no_layout(root, NAME, f"{REALS}/{REAL_SOURCE} and no {FAKES}/{METHOD}")
    example = "07__kitchen_pan.mp4"
    reals, mismatches = find_parts(base, REALS, REAL_SOURCE, names=_REAL_NAME, example=example, root=root)
    example = "07_12__kitchen_pan__0AB1CD2E.mp4"
    fakes, passed_over = find_parts(base, FAKES, METHOD, names=_FAKE_NAME, example=example, root=root)
    rows = [_make_real(part, stem) for part in reals for stem in part.videos]
    rows += [_make_fake(part, stem) for part in fakes for stem in part.videos]
    videos = sorted(rows, key=lambda row: row.video_key)
    return Listing(videos, mismatches + passed_over, has_official_split=False)


def _make_real(part: Part, stem: str) -> VideoRow:
    match = _REAL_NAME.fullmatch(stem)
    assert match is not None
    return replace(part.make_row(NAME, stem), label="real", identity=f"{NAME}:{match['actor']}")


def _make_fake(part: Part, stem: str) -> VideoRow:
    match = _FAKE_NAME.fullmatch(stem)
    assert match is not None
    return replace(
        part.make_row(NAME, stem),
        label="fake",
        method=METHOD,
        original=make_key(NAME, REAL_SOURCE, part.compression, f"{match['target']}__{match['scene']}"),
        identity=f"{NAME}:{match['target']};{NAME}:{match['source']}",
    )


DFD = Dataset(
    name=NAME,
    title="DeepFakeDetection (Google and Jigsaw, 2019)",
    list_videos=list_dfd,
    request=(
        "The form at github.com/ondyari/FaceForensics, as for FaceForensics++; the same terms of use (research and "
        "teaching, not commercial) and script, there called DeepFakeDetection_original and DeepFakeDetection."
    ),
    layout="""\
ROOT/
  original_sequences/actors/{raw or c0,c23,c40}/videos/07__kitchen_pan.mp4
  manipulated_sequences/DeepFakeDetection/
    {raw or c0,c23,c40}/videos/07_12__kitchen_pan__0AB1CD2E.mp4    target_source__scene__experiment
    masks/videos/07_12__kitchen_pan__0AB1CD2E.mp4                  if downloaded
ROOT may be the folder of FaceForensics++.
""",
    published=tuple(
        count_part(count, source, compression, method=method)
        for source, method, count in ((REAL_SOURCE, None, NUM_REAL), (METHOD, METHOD, NUM_FAKE))
        for compression in COMPRESSIONS
    ),
)

"""WildDeepfake: face sequences from videos found on the internet, as folders of cropped pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.datasets.dataset import Dataset, Listing, Mismatch, PublishedCount
from pipelines.datasets.layout import absolute, folders_in, keep_first, name_some, no_layout
from pipelines.records import LABELS, VideoRow
from pipelines.workspace.scan import walk

NAME = "wilddeepfake"
OFFICIAL_SPLITS = ("train", "test")
ARCHIVE = re.compile(r"(.+?)(\.tar\.gz|\.tgz|\.tar)", re.IGNORECASE)
MAX_DEPTH = 2
"""Where the four folders are looked for, such as deepfake_in_the_wild/real/train."""
UNPACK = 'for archive in *.tar.gz; do tar -xf "$archive"; done'
"""Without -z: the archives are named .tar.gz, but not all of them are compressed."""


def list_wilddeepfake(root: Path) -> Listing:
    """A row for each folder of pictures: one face of one video; `path` is the folder, its pictures named by frame.

    `group` is the archive that the sequence came in (the number above it), where sequences of one video lie together. Label
    and side come from the four outer folders.

    Raises:
        DatasetError: there is no folder that is named by label and side.
    """
    sides = sorted(_find_sides(root, frozenset(), MAX_DEPTH), key=lambda side: side.name) if root.is_dir() else []
    if not sides:
        raise no_layout(root, NAME, "folder real_train, real_test, fake_train or fake_test")
    rows: list[VideoRow] = []
    mismatches: list[Mismatch] = []
    for side in sides:
        sequences = list(side.sequences())
        of_side = [side.make_row(folder) for folder in sequences if folder != side.folder]
        rows += of_side
        mismatches += _find_loose(side, root, sequences)
        mismatches += _find_contradictions(side, root, of_side)
        mismatches += _find_packed(side, root, {row.group for row in of_side})
    videos, repeated = keep_first(rows, root)
    return Listing(videos, mismatches + repeated, has_official_split=True)


@dataclass(frozen=True)
class _Side:
    """One of the four outer folders."""

    folder: Path
    label: str
    split: str

    @property
    def name(self) -> str:
        return f"{NAME}/{self.split}/{self.label}"

    def sequences(self) -> Iterator[Path]:
        """The folders that contain pictures directly."""
        from pipelines.video import KNOWN_IMAGE_SUFFIXES

        for folder, files in walk(self.folder):
            if any(_suffix(name) in KNOWN_IMAGE_SUFFIXES for name in files):
                yield folder

    def make_row(self, folder: Path) -> VideoRow:
        """The row of a sequence."""
        parts = folder.relative_to(self.folder).parts
        return VideoRow(
            video_id="",
            sha256="",
            video_key=f"{self.name}/{'/'.join(parts)}",
            path=absolute(folder),
            label=self.label,
            split=self.split,
            group=self.group_of(next((part for part in parts if part.isdecimal()), parts[0])),
            dataset=NAME,
        )

    def group_of(self, archive: str) -> str:
        """The group of an archive's sequences."""
        return f"{self.name}/{archive}"


def _suffix(name: str) -> str:
    return "" if name.startswith(".") else os.path.splitext(name)[1].lower()


def _find_sides(folder: Path, said: frozenset[str], depth: int) -> Iterator[_Side]:
    """The outermost folders whose path names one label and one split: `real_train`, `Fake test`, `train/real`."""
    for child in folders_in(folder):
        words = said | set(re.split(r"[ _-]+", child.name.casefold()))
        labels, splits = words.intersection(LABELS), words.intersection(OFFICIAL_SPLITS)
        if len(labels) == 1 and len(splits) == 1:
            yield _Side(child, *labels, *splits)
        elif depth and len(labels) < 2 and len(splits) < 2:
            yield from _find_sides(child, words, depth - 1)


def _find_loose(side: _Side, root: Path, sequences: Sequence[Path]) -> list[Mismatch]:
    """Pictures outside the folders of sequences: which of them belong together is unknown."""
    if side.folder not in sequences:
        return []
    message = "passed over: pictures that lie in no folder of their sequence; unpack the archives again"
    return [Mismatch("layout", side.folder.relative_to(root).as_posix(), message)]


def _find_contradictions(side: _Side, root: Path, rows: list[VideoRow]) -> list[Mismatch]:
    """The archives contain a folder named after the label."""
    (other,) = (label for label in LABELS if label != side.label)
    names = [row.video_key.removeprefix(f"{side.name}/") for row in rows]
    wrong = [name for name in names if other in name.split("/")]
    if not wrong:
        return []
    message = (
        f"{len(wrong)} sequences lie in a folder of the other label: {name_some(wrong)}; "
        f"the outer folder ({side.label}) counts"
    )
    return [Mismatch("label", side.folder.relative_to(root).as_posix(), message)]


def _find_packed(side: _Side, root: Path, groups: set[str | None]) -> list[Mismatch]:
    """Archives that were not unpacked."""
    archives = {path.name: match[1] for path in side.folder.iterdir() if (match := ARCHIVE.fullmatch(path.name))}
    packed = sorted(name for name, stem in archives.items() if side.group_of(stem) not in groups)
    if not packed:
        return []
    message = f"skipped {len(packed)} packed archives: {name_some(packed)}; run in this folder: {UNPACK}"
    return [Mismatch("layout", side.folder.relative_to(root).as_posix(), message)]


def _count(what: str, count: int, **fields: str) -> PublishedCount:
    return PublishedCount(
        what, count, lambda video: all(getattr(video, name) == value for name, value in fields.items())
    )


WILDDEEPFAKE = Dataset(
    name=NAME,
    title="WildDeepfake, Zi et al. 2020",
    list_videos=list_wilddeepfake,
    request=(
        "Fill in the agreement form that https://github.com/OpenTAI/wild-deepfake links to; the archives are at "
        "https://huggingface.co/datasets/xingjunm/WildDeepfake."
    ),
    layout=f"""\
ROOT/
  real_train/1/real/103/942.png ...
  real_test/ ...
  fake_train/1/fake/131/942.png ...
  fake_test/ ...
They come as archives (fake_train/1.tar.gz); to unpack them run in each of the four folders:
  {UNPACK}""",
    published=(
        _count("train", 6508, split="train"),
        _count("test, real", 396, split="test", label="real"),
        _count("test, fake", 410, split="test", label="fake"),
    ),
    is_cropped=True,
)

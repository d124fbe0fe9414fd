"""The folders that FaceForensics++, DeepFakeDetection and the real videos of DeeperForensics-1.0 are downloaded into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.datasets.dataset import Mismatch, PublishedCount
from pipelines.datasets.layout import absolute, find_folder, videos_by_stem, videos_in
from pipelines.records import VideoRow

REALS, FAKES = "original_sequences", "manipulated_sequences"
YOUTUBE = "youtube"
YOUTUBE_NAME = re.compile(r"\d{3}")
YOUTUBE_EXAMPLE = "071.mp4"
COMPRESSIONS = ("c0", "c23", "c40")
"""As published; the H.264 rate factors. The folder of c0 is called `raw` by some downloads."""
_COMPRESSION_PATTERN = re.compile(r"raw|c\d+")


@dataclass(frozen=True)
class Part:
    """The videos of one source at one compression."""

    source: str
    """The published name of the folder, such as `youtube` or `Face2Face`."""
    compression: str
    where: str
    """The folder of the videos, relative to the root."""
    videos: Mapping[str, Path]
    """By their stem."""
    masks: Mapping[str, Path]
    """The videos of masks by the stem of the fake; they are the same for every compression."""

    def make_row(self, dataset: str, stem: str) -> VideoRow:
        """What the place of a video says about it; the label is not among it."""
        mask = self.masks.get(stem)
        return VideoRow(
            video_id="",
            sha256="",
            video_key=make_key(dataset, self.source, self.compression, stem),
            path=absolute(self.videos[stem]),
            dataset=dataset,
            compression=self.compression,
            mask=absolute(mask) if mask else None,
        )


def make_key(dataset: str, source: str, compression: str, stem: str) -> str:
    """The video_key: stems alone repeat in every method and compression."""
    return f"{dataset}/{source}/{compression}/{stem}"


def find_parts(
    base: Path, branch: str, source: str, *, names: re.Pattern[str], example: str, root: Path
) -> tuple[list[Part], list[Mismatch]]:
    """The parts below `base/branch/source`, none if it is not there, and what was passed over.

    Args:
        names: what the whole stem of a video has to match.
        example: a file name that does.
        root: what mismatches are relative to.
    """
    folder = find_folder(base, branch, source)
    if folder is None:
        return [], []
    masks = find_folder(folder, "masks", "videos")
    masks_of = {path.stem: path for path in videos_in(masks)} if masks else {}
    parts: dict[str, Part] = {}
    mismatches: list[Mismatch] = []
    for child in sorted(folder.iterdir()):
        name = child.name.lower()
        if not child.is_dir() or not _COMPRESSION_PATTERN.fullmatch(name):
            continue
        compression = "c0" if name == "raw" else name
        videos = find_folder(child, "videos")
        where = (videos or child).relative_to(root).as_posix()
        if videos is None:
            mismatches.append(
                Mismatch("layout", where, "passed over: it has no folder `videos`; put its videos into one")
            )
        elif compression in parts:
            message = f"skipped: it is the same as {parts[compression].where}; remove one of the two"
            mismatches.append(Mismatch("layout", where, message))
        else:
            by_stem, passed_over = videos_by_stem(videos, names=names, example=example, root=root)
            parts[compression] = Part(source, compression, where, by_stem, masks_of)
            mismatches += passed_over
    return list(parts.values()), mismatches


def count_part(
    count: int, source: str, compression: str, *, method: str | None, split: str | None = None
) -> PublishedCount:
    """So many videos of a part were published, or of one side of it; `method` is None for real videos."""

    def selects(row: VideoRow) -> bool:
        return (row.method, row.compression) == (method, compression) and split in (None, row.split)

    return PublishedCount(f"{source} {compression}" + (f", {split}" if split else ""), count, selects)

"""Your own data set: videos in folders named real and fake, perhaps under train, val and test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from pipelines.datasets.dataset import Dataset, Listing, Mismatch
from pipelines.datasets.layout import absolute, count, name_some, no_layout, not_listed, videos_in
from pipelines.records import VideoRow
from pipelines.workspace.inputs import InputFile, make_video_keys
from pipelines.workspace.labels import label_and_split_in

NAME = "folder"


def list_folder(root: Path) -> Listing:
    """The videos below folders named `real` and `fake`; the innermost such name counts, in any case.

    Folders named `train`, `val` and `test`, above or below those, give the side. The split is official only if every
    labelled video has a side; else the sides that are given are kept, and the other videos wait for theirs. Where links
    show one file twice, with one label and side, the first path counts.

    Raises:
        DatasetError: no video lies below a folder named `real` or `fake`.
    """
    paths = videos_in(root, recursive=True) if root.is_dir() else []
    said = {path: label_and_split_in(path.relative_to(root).parent) for path in paths}
    first_of: dict[tuple[str, str | None, str | None], Path] = {}
    repeated = []
    for path in paths:
        if said[path][0] and first_of.setdefault((os.path.realpath(path), *said[path]), path) != path:
            repeated.append(_name(path, root))
    labelled = list(first_of.values())
    if not labelled:
        raise no_layout(root, NAME, "video below a folder named real or fake")
    files = [InputFile(path, _name(path, root)) for path in labelled]
    videos = [
        VideoRow(
            video_id="",
            sha256="",
            video_key=key,
            path=absolute(path),
            label=said[path][0],
            split=said[path][1],
            dataset=Path(absolute(root)).name,
        )
        for path, key in zip(labelled, make_video_keys(files), strict=True)
    ]
    used = {real_path for real_path, _, _ in first_of}
    others = [_name(path, root) for path in paths if not said[path][0] and os.path.realpath(path) not in used]
    mismatches = not_listed(".", others) + _describe_repeated(repeated)
    return Listing(videos, mismatches, has_official_split=all(video.split for video in videos))


def _name(path: PurePath, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _describe_repeated(names: Sequence[str]) -> list[Mismatch]:
    if not names:
        return []
    message = f"skipped {count(names)} that a link shows a second time: {name_some(names)}; remove the link"
    return [Mismatch("layout", ".", message)]


FOLDER = Dataset(
    name=NAME,
    title="Videos of your own in folders named real and fake",
    list_videos=list_folder,
    request="Nothing to request: these are your own videos.",
    layout="""\
ROOT/
  real/clip.mp4 ...
  fake/clip.mp4 ...
or, with sides:
ROOT/
  train/real/ ...  train/fake/ ...
  val/real/ ...    val/fake/ ...
  test/real/ ...   test/fake/ ...
There may be other folders above, between and below these.""",
)

"""A data set of one's own: videos in folders named real and fake, perhaps under train, val and test."""

from __future__ import annotations

from pathlib import Path, PurePath

from pipelines.data.labels import label_and_split_in
from pipelines.datasets.dataset import Dataset, Listing
from pipelines.datasets.layout import absolute, no_layout, not_listed, videos_in
from pipelines.inputs import InputFile, make_video_keys
from pipelines.records import VideoRow

NAME = "folder"


def list_folder(root: Path) -> Listing:
    """The videos below folders named `real` and `fake`; the innermost such name counts, upper or lower case.

    Folders named `train`, `val` and `test`, above or below those, give the side. The split is official only if every
    labelled video has a side; else the sides that are given are kept, and the other videos wait for theirs.

    Raises:
        DatasetError: no video lies below a folder named `real` or `fake`.
    """
    paths = videos_in(root, recursive=True) if root.is_dir() else []
    said = {path: label_and_split_in(path.relative_to(root).parent) for path in paths}
    labelled = [path for path in paths if said[path][0]]
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
    others = [_name(path, root) for path in paths if not said[path][0]]
    return Listing(videos, not_listed(".", others), has_official_split=all(video.split for video in videos))


def _name(path: PurePath, root: Path) -> str:
    return path.relative_to(root).as_posix()


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

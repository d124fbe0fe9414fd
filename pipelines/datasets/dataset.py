"""What every data set's module provides: a listing of the videos, mismatches, and published counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.records import VideoRow

MismatchKind = Literal["label", "missing", "unlisted", "layout"]


@dataclass(frozen=True)
class Mismatch:
    """Something in the folder that does not fit what the data set's own lists say."""

    kind: MismatchKind
    """`label`: a list and a folder contradict each other (the message says which one counts). `missing`: listed, but no
    file. `unlisted`: a file in no list. `layout`: something that was skipped, such as an archive that was not unpacked."""
    where: str
    """The path or line, relative to the root."""
    message: str
    """Cause and remedy, one line."""


@dataclass(frozen=True)
class Listing:
    """The videos of a folder."""

    videos: list[VideoRow]
    """`video_id` and `sha256` empty (nothing is hashed here), `path` absolute, `video_key` unique
    (`dataset/method/compression/stem`, as many of these as the data set has), `label` never None, `split` where an
    official list gives one, `original` the key of the video a fake was made from, `dataset` the data set's name."""
    mismatches: list[Mismatch]
    has_official_split: bool
    """Whether lists that came with the download decided every video's side; then nothing is dealt."""


@dataclass(frozen=True)
class PublishedCount:
    """A number from the data set's paper or page, to hold the folder against."""

    what: str
    """Such as `Deepfakes c23` or `test, real`."""
    count: int
    selects: Callable[[VideoRow], bool]
    """Which of the found videos it counts; a part of which nothing was found at all is taken as not downloaded."""


@dataclass(frozen=True)
class Dataset:
    """A data set that `index` knows: one line of the table in `table.py`."""

    name: str
    title: str
    """Authors and year."""
    list_videos: Callable[[Path], Listing]
    """From the root as downloaded.

    Raises:
        DatasetError: the folder has another layout; the message says what was looked for.
    """
    request: str
    """Where the data set is requested, and under which terms."""
    layout: str
    """How to lay it out: a tree of folders, several lines."""
    published: Sequence[PublishedCount] = ()
    is_cropped: bool = False
    """Its videos are folders of pictures of faces, for `import-faces`."""

"""What every data set's module provides: a listing of the videos, with what does not fit, and what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.records import VideoRow

FindingKind = Literal["label", "missing", "unlisted", "layout"]


@dataclass(frozen=True)
class Finding:
    """Something in the folder that does not fit what the data set's own lists say."""

    kind: FindingKind
    """`label`: a list and a folder contradict each other (the message says which was believed). `missing`: listed, not
    there. `unlisted`: there, in no list. `layout`: something that was passed over, such as an archive that is not
    unpacked."""
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
    findings: list[Finding]
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

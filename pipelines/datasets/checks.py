"""Compare a data set's folder with published counts, find copies among its files and leaks between its splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipelines.data.face_crop_sources import digest_of_pictures
from pipelines.data.leaks import EXAMPLES, NAMES, find_leaks
from pipelines.datasets.dataset import Dataset, Listing, Mismatch, MismatchKind
from pipelines.errors import InputError, StorageError, UnreadableError, describe_failure
from pipelines.records import SPLITS, VideoRow
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress

log = logging.getLogger(__name__)
CheckOutcome = Literal["ok", "note", "failed"]
MAX_WORKERS = 4
"""Default number of threads that read files: a disk gains little from more."""
MISSING, READABLE = "missing files", "readable files"
MISMATCHES: dict[MismatchKind, tuple[str, CheckOutcome]] = {
    "label": ("labels against folders", "failed"),
    "missing": (MISSING, "failed"),
    "unlisted": ("unlisted files", "note"),
    "layout": ("layout", "note"),
}
"""What each kind of mismatch is called in the report, and how serious it is."""


@dataclass(frozen=True)
class CheckResult:
    """One line of the report."""

    name: str
    outcome: CheckOutcome
    """`note`: worth knowing, such as a part that was not downloaded; `failed`: must be fixed before evaluation."""
    expected: str
    found: str
    detail: str = ""
    """Examples and the remedy."""


@dataclass(frozen=True)
class CheckReport:
    """All that was checked, in a fixed order."""

    checks: tuple[CheckResult, ...]

    @property
    def is_incomplete(self) -> bool:
        """Whether files are missing or cannot be opened."""
        return any(check.outcome == "failed" and check.name in (MISSING, READABLE) for check in self.checks)

    @property
    def has_contradiction(self) -> bool:
        """Whether splits leak, or labels contradict folders or each other."""
        return any(check.outcome == "failed" and check.name not in (MISSING, READABLE) for check in self.checks)


def inspect_files(
    videos: Sequence[VideoRow],
    digest_of: Callable[[Path], str],
    *,
    is_cropped: bool = False,
    workers: int = 0,
    on_progress: ProgressCallback = ignore_progress,
) -> list[VideoRow]:
    """The rows with the digests of their files; `unreadable`, with the reason, if no frame decodes.

    Args:
        digest_of: SHA-256 of a file; not used for folders of pictures.
        is_cropped: each path is a folder of pictures of faces.

    Raises:
        StorageError: the digests cannot be stored.
    """

    def inspect(video: VideoRow) -> VideoRow:
        try:
            return _inspect_folder(video) if is_cropped else _inspect_video(video, digest_of)
        except StorageError:
            raise
        except (InputError, OSError) as error:
            return replace(video, status="unreadable", error=describe_failure(error))
        except Exception as error:  # one odd file must not end a check of thousands; the traceback goes to the log
            log.exception("index failed on %s", video.path)
            return replace(video, status="failed", error=describe_failure(error))

    rows: list[VideoRow] = []
    pool = ThreadPoolExecutor(workers or min(MAX_WORKERS, os.cpu_count() or 1))
    try:
        for row in pool.map(inspect, videos):
            rows.append(row)
            on_progress(Progress("index", len(rows), len(videos), "video"))
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def check_dataset(dataset: Dataset, listing: Listing, videos: Sequence[VideoRow]) -> CheckReport:
    """The report on a listing and its inspected files.

    Args:
        listing: the folder as read by the data set's module, with the official splits.
        videos: the same videos after `inspect_files`, in the splits they are used in.
    """
    return CheckReport(
        (
            *_check_counts(dataset, listing.videos),
            *(_check_mismatches(kind, listing.mismatches) for kind in MISMATCHES),
            _check_readable(videos),
            *_check_copies(videos),
            *_check_leaks(videos),
        )
    )


def _inspect_video(video: VideoRow, digest_of: Callable[[Path], str]) -> VideoRow:
    from pipelines.video import open_video

    path = Path(video.path)
    if not path.is_file():
        raise UnreadableError(f"{path.name} is not a file; download it again")
    sha256 = digest_of(path)
    video = replace(video, video_id=sha256[:16], sha256=sha256)
    try:
        with open_video(path) as reader:
            frames = reader.frames(range(reader.info.num_frames))
            next(frames)  # the first one that decodes; a reader without any raises
            return replace(video, error=reader.warning)
    except InputError as error:
        return replace(video, status="unreadable", error=describe_failure(error))


def _inspect_folder(video: VideoRow) -> VideoRow:
    """With the digest that `import-faces` computes: of its pictures in the order of their names."""
    from pipelines.system.image_files import decode_image
    from pipelines.video import KNOWN_IMAGE_SUFFIXES

    folder = Path(video.path)
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in KNOWN_IMAGE_SUFFIXES)
    if not pictures:
        raise UnreadableError(f"{folder.name} holds no pictures; unpack its archive again")
    sha256 = digest_of_pictures(path.read_bytes() for path in pictures)
    if decode_image(pictures[0].read_bytes()) is None:
        raise UnreadableError(f"{folder.name}/{pictures[0].name} is not a readable picture; unpack its archive again")
    return replace(video, video_id=sha256[:16], sha256=sha256)


def _check_counts(dataset: Dataset, videos: Sequence[VideoRow]) -> Iterator[CheckResult]:
    """Counts of the downloaded parts; downloads are often partial, so a difference is only a note."""
    for published in dataset.published:
        found = sum(map(published.selects, videos))
        if found:
            difference = found - published.count
            detail = f"{abs(difference)} {'more' if difference > 0 else 'fewer'} than published" if difference else ""
            outcome: CheckOutcome = "note" if difference else "ok"
            yield CheckResult(f"videos of {published.what}", outcome, str(published.count), str(found), detail)


def _check_mismatches(kind: MismatchKind, mismatches: Sequence[Mismatch]) -> CheckResult:
    name, outcome = MISMATCHES[kind]
    found = [mismatch for mismatch in mismatches if mismatch.kind == kind]
    messages = [f"{mismatch.where}: {mismatch.message}" for mismatch in found]
    return replace(_none_expected(name, outcome, messages), found=_places(len(found)))


def _check_readable(videos: Sequence[VideoRow]) -> CheckResult:
    broken = [video for video in videos if video.status != "ok"]
    detail = _examples(f"{video.video_key}: {video.error}" for video in broken)
    outcome: CheckOutcome = "failed" if broken else "ok"
    return CheckResult(READABLE, outcome, str(len(videos)), str(len(videos) - len(broken)), detail)


def _check_copies(videos: Sequence[VideoRow]) -> Iterator[CheckResult]:
    first: dict[str, VideoRow] = {}
    equal: list[str] = []
    contradicting: list[str] = []
    for video in videos:
        if not video.sha256:
            continue
        original = first.setdefault(video.sha256, video)
        if original.label != video.label:
            contradicting.append(
                f"{original.video_key} ({original.label}) and {video.video_key} ({video.label}) are one file; correct one"
            )
        elif original is not video:
            equal.append(f"{original.video_key} and {video.video_key}")
    yield _none_expected("copies with one label", "note", equal)
    yield _none_expected("copies with two labels", "failed", contradicting)


def _check_leaks(videos: Sequence[VideoRow]) -> Iterator[CheckResult]:
    sides = {side: [video for video in videos if video.split == side] for side in SPLITS}
    leaks = find_leaks(
        {side: rows for side, rows in sides.items() if rows}, others=[video for video in videos if video.split is None]
    )
    for kind, (noun, _) in NAMES.items():
        messages = [str(leak) for leak in leaks if leak.kind == kind]
        remedy = "remedy: --drop-leaks or --split deal, with --overwrite" if messages else ""
        yield _none_expected(f"leaks by {noun}", "failed", messages, remedy)


def _none_expected(name: str, outcome: CheckOutcome, messages: Sequence[str], remedy: str = "") -> CheckResult:
    detail = "; ".join(filter(None, (_examples(messages), remedy)))
    return CheckResult(name, outcome if messages else "ok", "0", str(len(messages)), detail)


def _places(number: int) -> str:
    """A mismatch is one list or folder, and may concern many files."""
    return f"{number} place{'' if number == 1 else 's'}" if number else "0"


def _examples(messages: Iterable[str]) -> str:
    every = list(messages)
    more = len(every) - EXAMPLES
    return "; ".join(every[:EXAMPLES]) + (f"; and {more} more" if more > 0 else "")

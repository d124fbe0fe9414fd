"""Stage `index`: the videos of a data set, as downloaded, with labels, splits, originals and people."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.config import IndexConfig, RunOptions, settings_of
from pipelines.data.split_assignment import assign_splits, drop_leaks
from pipelines.datasets.checks import MISMATCHES, CheckReport, check_dataset, inspect_files
from pipelines.datasets.dataset import Dataset, Listing, Mismatch
from pipelines.datasets.table import find_dataset
from pipelines.errors import DatasetError
from pipelines.records import FINISHED, LABELS, SPLITS, VideoRow, rows_to_table
from pipelines.system.atomic_files import storage_error
from pipelines.system.progress import ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_stage
from pipelines.workspace.inputs import DigestCache
from pipelines.workspace.lock import hold_stage
from pipelines.workspace.manifest import Provenance, write_table

log = logging.getLogger(__name__)
STAGE = "index"
ROW_FORMAT = 1


@dataclass(frozen=True)
class IndexSummary:
    """The result of `index`."""

    folder: Path
    videos: list[VideoRow]
    mismatches: list[Mismatch]
    report: CheckReport | None
    """Only with `check`."""
    dealt: bool
    """Whether `index` assigned the split."""
    left_out: int
    """Videos that could not be assigned to a split."""
    dropped: int
    """Videos that lost their split to `drop_leaks`."""

    @property
    def counts(self) -> dict[str | None, dict[str, int]]:
        """Videos by split and label; None stands for those without a split."""
        counts = Counter((video.split, video.label) for video in self.videos)
        sides = [side for side in (*SPLITS, None) if any(counts[side, label] for label in LABELS)]
        return {side: {label: counts[side, label] for label in LABELS} for side in sides}

    @property
    def failures(self) -> list[VideoRow]:
        return [video for video in self.videos if video.status not in FINISHED]


def index_dataset(
    dataset: str,
    root: Path | str,
    workspace: Path | str,
    config: IndexConfig | None = None,
    options: RunOptions | None = None,
    *,
    check: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> IndexSummary:
    """List a data set's videos in `WORKSPACE/index/videos.parquet`, which `extract-frames` and `predict` read.

    Args:
        dataset: a name of `pipelines.datasets.table`.
        root: its folder as downloaded; for `csv` the file.
        check: read every file too, and report on counts, labels, files, copies and leaks. What it finds is reported, not
            raised: the rows are written in any case. Without it, a file that an earlier check has hashed keeps its digest.

    Raises:
        DatasetError: an unknown data set, or a folder that does not hold it.
        SettingsChangedError: the workspace holds an index made with other settings.
        StorageError: the rows could not be written.
    """
    config, options = config or IndexConfig(), options or RunOptions()
    known = find_dataset(dataset)
    listing = _list_videos(known, Path(root))
    provenance = Provenance(STAGE, ROW_FORMAT, settings_of(config, dataset=dataset))
    with hold_stage(workspace, STAGE):
        folder = _open_folder(Path(workspace), provenance, overwrite=options.overwrite)
        digests = DigestCache(folder.root / "digests.jsonl", verify=check and options.verify)
        videos = sorted(listing.videos, key=lambda video: video.path)
        if check:
            videos = inspect_files(
                videos,
                digests.digest_of,
                is_cropped=known.is_cropped,
                workers=options.workers,
                on_progress=on_progress,
            )
        else:
            _warn_of(listing.mismatches)
            videos = [_with_known_digest(video, digests) for video in videos]
        videos, is_dealt = _choose_sides(videos, listing, config)
        kept = _drop_leaks(videos) if config.drop_leaks else videos
        write_table(rows_to_table(kept, VideoRow), folder.videos_path, provenance)
        return IndexSummary(
            folder=folder.root,
            videos=kept,
            mismatches=listing.mismatches,
            report=check_dataset(known, listing, kept) if check else None,
            dealt=is_dealt,
            left_out=sum(video.split is None for video in videos) if is_dealt else 0,
            dropped=sum(before.split != after.split for before, after in zip(videos, kept, strict=True)),
        )


def _list_videos(dataset: Dataset, root: Path) -> Listing:
    help_hint = f"what belongs there: deepfake index {dataset.name} --download-help"
    if not root.exists():
        raise DatasetError(f"{root} does not exist; pass the folder of {dataset.name} ({help_hint})")
    try:
        listing = dataset.list_videos(root)
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{root} cannot be read as {dataset.name}: {reason} ({help_hint})") from error
    if not listing.videos:
        raise DatasetError(f"no video of {dataset.name} in {root}; check the path ({help_hint})")
    for name in ("video_key", "path"):
        most = Counter(getattr(video, name) for video in listing.videos).most_common(1)[0]
        if most[1] > 1:
            raise DatasetError(f"{dataset.name} lists the {name} {most[0]} {most[1]} times; please report this bug")
    return listing


def _open_folder(workspace: Path, provenance: Provenance, *, overwrite: bool) -> StageFolder:
    """The folder of the rows. Digests are of files and of no setting: they outlast `overwrite`."""
    if overwrite:
        rows_path = StageFolder(workspace / STAGE).videos_path
        try:
            rows_path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, rows_path) from error
    return open_stage(workspace, provenance, overwrite=False)


def _with_known_digest(video: VideoRow, digests: DigestCache) -> VideoRow:
    """Copies that a check has found stay together: else a dealt split would move when it is dealt again."""
    sha256 = digests.known_digest(Path(video.path))
    return replace(video, video_id=sha256[:16], sha256=sha256) if sha256 else video


def _choose_sides(videos: list[VideoRow], listing: Listing, config: IndexConfig) -> tuple[list[VideoRow], bool]:
    """The rows on their sides, and whether these were dealt."""
    given = sum(video.split is not None for video in videos)
    if config.split == "deal" or (config.split == "auto" and not listing.has_official_split and not given):
        return _deal(videos, config), True
    if config.split == "auto":
        if not listing.has_official_split:  # dealing the others could tear apart what the given splits hold together
            log.warning(
                "%d of %d videos have no split in the lists and get none; "
                "give them one, or deal all with --split deal --overwrite",
                len(videos) - given,
                len(videos),
            )
        return videos, False
    return _on_sides(videos, [None if config.split == "none" else config.split] * len(videos)), False


def _deal(videos: Sequence[VideoRow], config: IndexConfig) -> list[VideoRow]:
    dealt = _on_sides(videos, assign_splits(videos, config.fractions, config.seed))
    wanted = [side for side, fraction in zip(SPLITS, config.fractions, strict=True) if fraction > 0]
    for side, label in _missing(dealt, wanted):
        log.warning(
            "no %s video is dealt to %s: too few are independent of the others; "
            "use other --fractions or another --seed, with --overwrite, or add videos",
            label,
            side,
        )
    return dealt


def _drop_leaks(videos: Sequence[VideoRow]) -> list[VideoRow]:
    kept = _on_sides(videos, drop_leaks(videos))
    for side, label in _missing(kept, SPLITS):
        before = sum((video.split, video.label) == (side, label) for video in videos)
        if before:
            log.warning(
                "no %s video is left in %s: all %d share something with what is held out; use --split deal --overwrite",
                label,
                side,
                before,
            )
    return kept


def _missing(videos: Sequence[VideoRow], sides: Sequence[str]) -> list[tuple[str, str]]:
    """Each side with each class that it has no video of."""
    there = {(video.split, video.label) for video in videos}
    return [(side, label) for side in sides for label in LABELS if (side, label) not in there]


def _on_sides(videos: Sequence[VideoRow], sides: Sequence[str | None]) -> list[VideoRow]:
    return [replace(video, split=side) for video, side in zip(videos, sides, strict=True)]


def _warn_of(mismatches: Sequence[Mismatch]) -> None:
    """One line a kind; every mismatch only for those who want to know."""
    for kind in MISMATCHES:
        found = [mismatch for mismatch in mismatches if mismatch.kind == kind]
        if found:
            more = f" (and {len(found) - 1} more of this kind: -v shows all)" if len(found) > 1 else ""
            log.warning("%s: %s%s", found[0].where, found[0].message, more)
        for mismatch in found[1:]:
            log.debug("%s: %s", mismatch.where, mismatch.message)

"""The run loop of the stages: resume, failures, parts, videos.parquet and the manifest, in this order.

A finished item has a part with the run's provenance. A failed item leaves no part, only a row that says why, and is tried
again by the next run. `manifest.parquet` is written last: if it exists, the stage is complete for its current inputs.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipelines.config import RunOptions, Shard
from pipelines.errors import ConfigError, ManifestError, StorageError, UnreadableError, describe_failure
from pipelines.records import FINISHED, VideoRow, rows_to_table, schema_of
from pipelines.system.atomic_files import remove_for_good
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_stage
from pipelines.workspace.items import Item, StageWork, work_on_all
from pipelines.workspace.lock import hold_stage
from pipelines.workspace.manifest import (
    Provenance,
    digest_json,
    note_in,
    read_note,
    read_num_rows,
    read_provenance,
    read_table,
    write_table,
)
from pipelines.workspace.shards import select_videos


@dataclass(frozen=True)
class StageSummary:
    """The result of running a stage."""

    stage: str
    folder: Path
    videos: list[VideoRow]
    skipped: int
    """Items finished by earlier runs."""
    num_ignored: int = 0
    """Files in the named folders that are neither video nor image, or hidden."""
    shard: Shard | None = None
    """The slice of all inputs in `videos`; the manifests are left to a run without a shard."""

    @property
    def rows(self) -> int:
        return sum(video.rows for video in self.videos)

    @property
    def failures(self) -> list[VideoRow]:
        return [video for video in self.videos if video.status not in FINISHED]


@contextmanager
def enter_stage(
    workspace: str | Path, provenance: Provenance, options: RunOptions, *, folder_name: str | None = None
) -> Iterator[StageFolder]:
    """The stage's folder, locked against other runs and emptied for `overwrite`.

    Raises:
        ConfigError: another run is working on the stage, or one shard would overwrite the others' work.
        SettingsChangedError: the folder was made with other settings.
    """
    workspace, stage = Path(workspace), folder_name or provenance.stage
    if options.shard and options.overwrite:
        raise ConfigError(
            "--overwrite with --shard would discard what the other shards have made; "
            f"remove {workspace / stage} once, then run every shard without it"
        )
    with hold_stage(workspace, stage, options.shard):
        yield open_stage(workspace, provenance, overwrite=options.overwrite, folder_name=folder_name)


def run_stage(
    work: StageWork[Item],
    videos: Sequence[VideoRow],
    items: Mapping[str, Item],
    options: RunOptions,
    *,
    threads: int = 1,
    redo: Collection[str] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> StageSummary:
    """Process a stage whose items are its readable videos, and write its manifests; a shard writes parts only.

    Args:
        videos: all inputs, those of other shards too.
        items: by `video_id`, at least those of the shard's readable videos.
        threads: items processed at once if there are no worker processes.
        redo: ids of items that are processed although they are finished.
    """
    own = select_videos(videos, options.shard)
    ids = dict.fromkeys(video.video_id for video in own if video.status == "ok")
    todo = {video_id: items[video_id] for video_id in ids if video_id in redo or not work.is_finished(video_id)}
    skipped = len(ids) - len(todo)
    failures = run_items(work, todo, options, threads=threads, done=skipped, on_progress=on_progress)
    rows = [_row_after(video, work.folder, failures) for video in own]
    if not options.shard:
        write_manifests(work, rows, [row.video_id for row in rows if row.status in FINISHED])
    return StageSummary(work.provenance.stage, work.folder.root, rows, skipped, shard=options.shard)


def run_items(
    work: StageWork[Item],
    items: Mapping[str, Item],
    options: RunOptions,
    *,
    threads: int = 1,
    done: int = 0,
    unit: str = "video",
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, Exception]:
    """Process items by id, each into its part.

    Args:
        done: items finished before, counted by the progress.

    Returns:
        The failures, by item id.
    """
    stage, total = work.provenance.stage, done + len(items)
    on_progress(Progress(stage, done, total, unit))
    if items:  # the stage is no longer complete
        remove_for_good(work.folder.manifest_path)
    failures: dict[str, Exception] = {}
    for item_id, failure in work_on_all(work, list(items.items()), options, threads):
        done += 1
        if failure is not None:
            failures[item_id] = failure
        on_progress(Progress(stage, done, total, unit))
    return failures


def write_manifests(work: StageWork[Item], videos: Sequence[VideoRow], item_ids: Iterable[str]) -> None:
    """Write `videos.parquet`, then the manifest: the parts of `item_ids`, each once, in that order.

    A manifest of the same parts is kept, for reading thousands of parts again takes a while.
    """
    folder, provenance = work.folder, work.provenance
    parts = list(dict.fromkeys(item_ids))
    digest = digest_json(parts)
    merged = None
    if not _is_manifest_of(folder.manifest_path, provenance, digest):
        merged = _merge_parts([folder.part_path(part) for part in parts], work.row_type)
        remove_for_good(folder.manifest_path)  # a manifest of other parts must not accompany the new videos
    write_table(rows_to_table(videos, VideoRow), folder.videos_path, provenance)
    if merged is not None:
        write_table(merged, folder.manifest_path, provenance, notes={"parts": digest})
    for path in (folder.videos_path, folder.manifest_path):
        _check_still_there(path)
    _remove_left_overs(folder)


def _check_still_there(path: Path) -> None:
    """A disk may be unmounted during a run, and its mount point take its place."""
    if not path.is_file():
        raise StorageError(f"{path} has disappeared; bring the folder or its disk back, then run again")


def _remove_left_overs(folder: StageFolder) -> None:
    """Remove temporary files of killed runs, and files that older versions wrote for each shard."""
    for path in (*folder.root.glob(".*.tmp"), *folder.root.glob("*/.*.tmp")):
        shutil.rmtree(path, ignore_errors=True)
        with suppress(StorageError):  # the stage is finished all the same
            remove_for_good(path)
    shutil.rmtree(folder.root / "shards", ignore_errors=True)


def _is_manifest_of(path: Path, provenance: Provenance, digest: str) -> bool:
    """Whether a manifest is of these parts; a part is a function of its name and the provenance."""
    if not path.is_file():
        return False
    try:
        return read_note(path, "parts") == digest and read_provenance(path) == provenance
    except ManifestError:
        return False


def _merge_parts(paths: Sequence[Path], row_type: type) -> pa.Table:
    tables = [read_table(path, row_type).replace_schema_metadata(None) for path in paths]
    return pa.concat_tables(tables) if tables else schema_of(row_type).empty_table()


def _row_after(video: VideoRow, folder: StageFolder, failures: Mapping[str, Exception]) -> VideoRow:
    """The video's row with the status, note and number of rows of its part, or with its failure."""
    if video.status != "ok":
        return replace(video, rows=0)
    failure = failures.get(video.video_id)
    if failure is not None:
        status = "unreadable" if isinstance(failure, UnreadableError) else "failed"
        return replace(video, status=status, error=describe_failure(failure), rows=0)
    path = folder.part_path(video.video_id)
    _check_still_there(path)
    rows, notes = read_num_rows(path)
    error = "; ".join(filter(None, (video.error, note_in(notes, "note")))) or None
    return replace(video, status=note_in(notes, "status") or "ok", error=error, rows=rows)

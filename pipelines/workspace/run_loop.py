"""The one run loop of the stages: resume, failures, parts, videos.parquet and the manifest, in this order.

A finished item is a part with the run's provenance. A failed item leaves no part, only a row that says why, and is tried
again by the next run. `manifest.parquet` is written last: if it exists, the stage is complete for its current inputs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from pipelines.config import RunOptions, Shard
from pipelines.errors import ManifestError, StorageError, UnreadableError, describe_failure
from pipelines.records import FINISHED, VideoRow, rows_to_table, schema_of
from pipelines.system.atomic_files import remove_for_good
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.items import ItemResult, ItemWork, nothing, work_on_all
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

log = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True)
class StageSummary:
    """What a run of a stage ended with."""

    stage: str
    folder: Path
    videos: list[VideoRow]
    skipped: int
    """Items that were finished before this run."""
    num_ignored: int = 0
    """Files in the named folders that are neither video nor image."""
    shard: Shard | None = None
    """The slice that `videos` are, of a stage that `merge` has yet to finish."""

    @property
    def rows(self) -> int:
        return sum(video.rows for video in self.videos)

    @property
    def failures(self) -> list[VideoRow]:
        return [video for video in self.videos if video.status not in FINISHED]


@dataclass
class StageRun(Generic[Item]):
    """One run over items; `process`, `id_of` and `prepare` as in `ItemWork`."""

    folder: StageFolder
    provenance: Provenance
    row_type: type
    process: Callable[[Item], ItemResult]
    id_of: Callable[[Item], str]
    prepare: Callable[[], object] = nothing
    unit: str = "video"
    options: RunOptions = field(default_factory=RunOptions)
    threads: int = 1
    """Items at once, where they are not worked on in processes of their own."""
    shard: Shard | None = None
    """Of the stage that the items are a slice of."""
    on_progress: ProgressCallback = ignore_progress
    _finished: set[str] = field(default_factory=set)
    """Items whose parts were looked at."""

    def run(self, items: Sequence[Item]) -> dict[str, Exception]:
        """Process what is not finished yet.

        Returns:
            The failures of this run, by item id. Finished items are their parts.
        """
        todo = [item for item in items if not self.is_finished(self.id_of(item))]
        done = len(items) - len(todo)
        self.on_progress(Progress(self.provenance.stage, done, len(items), self.unit))
        if todo:
            self._take_back_manifests()
        failures: dict[str, Exception] = {}
        work = ItemWork[Item](
            self.folder.parts_folder, self.provenance, self.row_type, self.process, self.id_of, self.prepare
        )
        for item, failure in work_on_all(work, todo, self.options, self.threads):
            done += 1
            if failure is not None:
                failures[self.id_of(item)] = failure
            self.on_progress(Progress(self.provenance.stage, done, len(items), self.unit))
        return failures

    def _take_back_manifests(self) -> None:
        """Take back what says that the stage is complete, before an item is made again."""
        remove_for_good(self.folder.manifest_path)
        if self.shard:
            remove_for_good(self.folder.shard_path(self.shard))

    def is_finished(self, item_id: str) -> bool:
        if item_id not in self._finished and self.folder.has_part(item_id, self.provenance):
            self._finished.add(item_id)
        return item_id in self._finished

    def finish(self, videos: Sequence[VideoRow], item_ids: Iterable[str]) -> None:
        """Write the two manifests. What shards have left is out of date then: this run had all items."""
        write_manifests(self.folder, self.provenance, self.row_type, videos, item_ids)
        shutil.rmtree(self.folder.shards_folder, ignore_errors=True)


def write_manifests(
    folder: StageFolder,
    provenance: Provenance,
    row_type: type,
    videos: Sequence[VideoRow],
    item_ids: Iterable[str],
) -> None:
    """Write `videos.parquet`, then the manifest: the parts of `item_ids`, each once, in that order.

    A manifest that is there is of the same parts or out of date; reading thousands of parts again takes a while.
    """
    parts = list(dict.fromkeys(item_ids))
    digest = digest_json(parts)
    merged = None
    if not _is_manifest_of(folder.manifest_path, provenance, digest):
        merged = merge_parts([folder.part_path(part) for part in parts], row_type)
        remove_for_good(folder.manifest_path)  # that of other parts must not stand beside the new videos
    write_table(rows_to_table(videos, VideoRow), folder.videos_path, provenance)
    if merged is not None:
        write_table(merged, folder.manifest_path, provenance, notes={"parts": digest})
    for path in (folder.videos_path, folder.manifest_path):
        _check_still_there(path)
    _remove_left_overs(folder)


def _check_still_there(path: Path) -> None:
    """Folders vanish, with the disk that they are on, and another one stands in their place."""
    if not path.is_file():
        raise StorageError(f"{path} was there and has gone; bring the folder or its disk back, then run again")


def _remove_left_overs(folder: StageFolder) -> None:
    """What a run that was killed had in work, also of items that no later run was given."""
    for path in (*folder.root.glob(".*.tmp"), *folder.root.glob("*/.*.tmp")):
        shutil.rmtree(path, ignore_errors=True)
        with suppress(StorageError):  # the stage is finished all the same
            remove_for_good(path)


def _is_manifest_of(path: Path, provenance: Provenance, digest: str) -> bool:
    """Whether a manifest is of these parts; a part is a function of its name and the provenance."""
    if not path.is_file():
        return False
    try:
        return read_note(path, "parts") == digest and read_provenance(path) == provenance
    except ManifestError:
        return False


def merge_parts(paths: Sequence[Path], row_type: type) -> pa.Table:
    """One table of all parts, in the given order."""
    tables = [read_table(path, row_type).replace_schema_metadata(None) for path in paths]
    return pa.concat_tables(tables) if tables else schema_of(row_type).empty_table()


def with_outcome(video: VideoRow, folder: StageFolder, failures: Mapping[str, Exception]) -> VideoRow:
    """The video's row with what became of it: its part's status and number of rows, or its failure."""
    failure = failures.get(video.video_id)
    if failure is not None:
        status = "unreadable" if isinstance(failure, UnreadableError) else "failed"
        return replace(video, status=status, error=describe_failure(failure), rows=0)
    path = folder.part_path(video.video_id)
    _check_still_there(path)
    rows, notes = read_num_rows(path)
    return replace(video, status=note_in(notes, "status") or "ok", error=note_in(notes, "note"), rows=rows)

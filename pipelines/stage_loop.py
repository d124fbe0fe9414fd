"""The one run loop of the stages: resume, failures, parts, videos.parquet and the manifest, in this order.

A finished item is a part with the run's provenance. A failed item leaves no part, only a row that says why, and is tried
again by the next run. `manifest.parquet` is written last: if it exists, the stage is complete for its current inputs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa

from pipelines.errors import ConfigError, DeepfakeError, ManifestError, SettingsChangedError, UnreadableError
from pipelines.manifest import (
    Provenance,
    read_metadata,
    read_note,
    read_provenance,
    read_table,
    storage_error,
    write_table,
)
from pipelines.progress import Progress, ProgressCallback, ignore_progress
from pipelines.records import FINISHED, VideoRow, rows_to_table, schema_of, table_to_rows
from pipelines.shards import Shard

log = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True)
class ItemResult:
    """What processing one item gave."""

    rows: list[Any]
    status: str = "ok"
    note: str | None = None
    """A warning or the reason of a status; it becomes the row's `error`."""


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


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage in a workspace."""

    root: Path

    @property
    def stage(self) -> str:
        return self.root.name

    @property
    def videos_path(self) -> Path:
        return self.root / "videos.parquet"

    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.parquet"

    @property
    def parts_folder(self) -> Path:
        return self.root / "parts"

    def part_path(self, video_id: str) -> Path:
        return self.parts_folder / f"{video_id}.parquet"

    def has_part(self, video_id: str, provenance: Provenance) -> bool:
        """Whether an item is finished: a part counts if it is whole; a damaged one is made again."""
        path = self.part_path(video_id)
        if not path.is_file():
            return False
        try:
            return read_provenance(path) == provenance
        except ManifestError:
            return False

    @property
    def shards_folder(self) -> Path:
        return self.root / "shards"

    def shard_path(self, shard: Shard) -> Path:
        """What a sharded run leaves for `merge`."""
        return self.shards_folder / f"{shard.index}-of-{shard.count}.parquet"

    def read_videos(self) -> list[VideoRow]:
        return table_to_rows(read_table(self.videos_path, VideoRow), VideoRow)

    def read_videos_of(self, splits: Sequence[str]) -> list[VideoRow]:
        """The videos on these sides; all if none is named.

        Raises:
            ConfigError: there are none.
        """
        videos = [video for video in self.read_videos() if not splits or video.split in splits]
        if not videos:
            raise ConfigError(f"{self.root} has no video of the split {' or '.join(splits)}")
        return videos


def open_stage(
    workspace: Path, provenance: Provenance, *, overwrite: bool, folder_name: str | None = None
) -> StageFolder:
    """The stage's folder (named like the stage, unless it stands for another), holding nothing made with other settings.

    Raises:
        SettingsChangedError: it does, and `overwrite` is off; the message names the settings.
    """
    folder = StageFolder(workspace / (folder_name or provenance.stage))
    if overwrite:
        shutil.rmtree(folder.root, ignore_errors=True)
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder.root) from error
    for earlier in _earlier_provenances(folder):
        changes = provenance.changes_from(earlier)
        if changes:
            raise SettingsChangedError(
                f"{folder.root} was made with other settings: {'; '.join(changes)}; "
                "pass --overwrite to make it again, or use another workspace"
            )
    return folder


def open_upstream(workspace: Path, stage: str) -> tuple[StageFolder, Provenance]:
    """The finished stage that the next one reads.

    Raises:
        ManifestError: the workspace or the stage is missing or not complete.
    """
    folder = StageFolder(workspace / stage)
    if not workspace.is_dir():
        raise ManifestError(
            f"workspace {workspace} does not exist; make it with: deepfake extract-frames … -w {workspace}"
        )
    if not folder.manifest_path.is_file() and folder.shards_folder.is_dir():
        raise ManifestError(
            f"the shards of {stage} were not merged in {workspace}; run: deepfake merge -w {workspace} --stage {stage}"
        )
    if not folder.manifest_path.is_file():
        state = "was not finished" if folder.root.is_dir() else "has not been run"
        raise ManifestError(f"{stage} {state} in {workspace}; run: deepfake {stage} … -w {workspace}")
    provenance = read_provenance(folder.manifest_path)
    if provenance.stage != stage and stage not in ACCEPTED_MAKERS.get(provenance.stage, ()):
        raise ManifestError(f"{folder.manifest_path} is a manifest of {provenance.stage}, not of {stage}")
    if provenance.upstream:
        _check_current(folder, provenance, StageFolder(workspace / provenance.upstream.stage))
    return folder, provenance


def _check_current(folder: StageFolder, provenance: Provenance, upstream: StageFolder) -> None:
    """Refuse a stage whose own upstream has other settings or other videos by now; one that was removed is no objection."""
    if not upstream.root.is_dir():
        return
    again = f"run again: deepfake {folder.stage} -w {folder.root.parent}"
    if not upstream.manifest_path.is_file():
        raise ManifestError(f"{upstream.root} is not finished; finish it, then {again}")
    changes = provenance.upstream.changes_from(read_provenance(upstream.manifest_path)) if provenance.upstream else []
    if changes:
        raise ManifestError(
            f"{folder.root} was made from an earlier {upstream.stage} ({changes[0]}); {again} --overwrite"
        )
    if {video.path for video in upstream.read_videos()} != {video.path for video in folder.read_videos()}:
        raise ManifestError(f"{folder.root} lacks videos of {upstream.stage}, or has others; {again}")


ACCEPTED_MAKERS = {"import-faces": ("detect-faces",)}
"""Stages whose manifest stands in another stage's place."""


@dataclass
class StageRun(Generic[Item]):
    """One run over items; `process` makes the rows of one item and writes its files."""

    folder: StageFolder
    provenance: Provenance
    row_type: type
    process: Callable[[Item], ItemResult]
    id_of: Callable[[Item], str]
    unit: str = "video"
    workers: int = 1
    shard: Shard | None = None
    """Of the stage that the items are a slice of."""
    on_progress: ProgressCallback = ignore_progress

    def run(self, items: Sequence[Item]) -> dict[str, Exception]:
        """Process what is not finished yet.

        Returns:
            The failures of this run, by item id. Finished items are their parts.
        """
        todo = [item for item in items if not self.is_finished(self.id_of(item))]
        done = len(items) - len(todo)
        self.on_progress(Progress(self.provenance.stage, done, len(items), self.unit))
        if todo:
            self.folder.manifest_path.unlink(missing_ok=True)
            if self.shard:
                self.folder.shard_path(self.shard).unlink(missing_ok=True)
        failures: dict[str, Exception] = {}
        for item, failure in self._process_all(todo):
            done += 1
            if failure is not None:
                failures[self.id_of(item)] = failure
            self.on_progress(Progress(self.provenance.stage, done, len(items), self.unit))
        return failures

    def is_finished(self, item_id: str) -> bool:
        return self.folder.has_part(item_id, self.provenance)

    def _process_all(self, items: Sequence[Item]) -> Iterator[tuple[Item, Exception | None]]:
        if self.workers <= 1:
            for item in items:
                yield item, self._process_one(item)
            return
        # At most `workers` items are handed out at a time, so an interruption waits for those and no others.
        queue = iter(items)
        with ThreadPoolExecutor(self.workers) as pool:
            running: dict[Future[Exception | None], Item] = {
                pool.submit(self._process_one, item): item for item in islice(queue, self.workers)
            }
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
                    for item in islice(queue, 1):
                        running[pool.submit(self._process_one, item)] = item

    def _process_one(self, item: Item) -> Exception | None:
        """The failure, if there is one, without its traceback: that would hold the frames that were in work."""
        try:
            result = self.process(item)
            notes = {"status": result.status} | ({"note": result.note} if result.note else {})
            table = rows_to_table(result.rows, self.row_type)
            write_table(table, self.folder.part_path(self.id_of(item)), self.provenance, notes=notes)
        except ConfigError:
            raise
        except DeepfakeError as error:
            return error.with_traceback(None)
        except OSError as error:
            return storage_error(error, Path(error.filename or self.folder.root))
        except Exception as error:  # one strange file must not end a run of thousands; the traceback goes to the log
            log.exception("%s failed on %s", self.provenance.stage, self.id_of(item))
            return error.with_traceback(None)
        return None

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
    """Write `videos.parquet`, then the manifest: the parts of `item_ids`, each once, in that order."""
    merged = merge_parts([folder.part_path(item_id) for item_id in dict.fromkeys(item_ids)], row_type)
    write_table(rows_to_table(videos, VideoRow), folder.videos_path, provenance)
    write_table(merged, folder.manifest_path, provenance)


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
    rows = read_table(path).num_rows
    return replace(video, status=read_note(path, "status") or "ok", error=read_note(path, "note"), rows=rows)


def describe_failure(failure: BaseException) -> str:
    """One line for the `error` column."""
    if isinstance(failure, DeepfakeError):
        return str(failure)
    return f"{type(failure).__name__}: {failure}".splitlines()[0]


def _earlier_provenances(folder: StageFolder) -> Iterator[Provenance]:
    """Of the stage's files if they are there, else of any whole part that an interrupted run or a shard has left."""
    parts = [path for inner in (folder.parts_folder, folder.shards_folder) for path in sorted(inner.glob("*.parquet"))]
    for path in (folder.manifest_path, folder.videos_path, *parts):
        if not path.is_file():
            continue
        try:
            read_metadata(path)
            yield read_provenance(path)
            return
        except ManifestError:
            continue

"""The one run loop of the stages: resume, failures, parts, videos.parquet and the manifest, in this order.

A finished item is a part with the run's provenance. A failed item leaves no part, only a row that says why, and is tried
again by the next run. `manifest.parquet` is written last: if it exists, the stage is complete for its current inputs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from pipelines.config import RunOptions
from pipelines.errors import (
    ConfigError,
    ManifestError,
    SettingsChangedError,
    UnreadableError,
    describe_failure,
)
from pipelines.manifest import (
    Provenance,
    digest_json,
    note_in,
    read_metadata,
    read_note,
    read_num_rows,
    read_provenance,
    read_table,
    storage_error,
    write_table,
)
from pipelines.progress import Progress, ProgressCallback, ignore_progress
from pipelines.records import FINISHED, VideoRow, rows_to_table, schema_of, table_to_rows
from pipelines.shards import Shard
from pipelines.stage_items import ItemResult, ItemWork, nothing, work_on_all

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
            self.folder.manifest_path.unlink(missing_ok=True)
            if self.shard:
                self.folder.shard_path(self.shard).unlink(missing_ok=True)
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
    write_table(rows_to_table(videos, VideoRow), folder.videos_path, provenance)
    if merged is not None:
        write_table(merged, folder.manifest_path, provenance, notes={"parts": digest})


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
    rows, notes = read_num_rows(folder.part_path(video.video_id))
    return replace(video, status=note_in(notes, "status") or "ok", error=note_in(notes, "note"), rows=rows)


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

"""The run loop: resume, failures, damaged parts, order and the manifest that is written last."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipelines.config import RunOptions
from pipelines.errors import (
    CheckpointError,
    InputError,
    ManifestError,
    SettingsChangedError,
    StorageError,
    UnreadableError,
)
from pipelines.records import FrameRow, VideoRow, rows_to_table
from pipelines.system.prefetch import read_ahead
from pipelines.system.progress import Progress
from pipelines.workspace.folder import StageFolder, open_stage, open_upstream
from pipelines.workspace.items import ItemResult, StageWork
from pipelines.workspace.manifest import Provenance, read_provenance, read_table, write_table
from pipelines.workspace.run_loop import enter_stage, run_items, run_stage
from tests.support import temporary_files

PROVENANCE = Provenance("extract-frames", 1, {"frames": 32})


class Worker:
    """Stands for a stage's `process`, which the loop knows only as a function from an item to rows: it counts its calls
    and fails where it is told to."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, BaseException] = {}

    def __call__(self, item: str) -> ItemResult:
        self.calls[item] += 1
        if item in self.failures:
            raise self.failures[item]
        rows = [FrameRow(item, index, index, 1, 25, index / 25, 8, 8, 0, f"{index}.png") for index in range(2)]
        return ItemResult(rows, note=f"note of {item}")


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "work"


def _run(
    workspace: Path,
    items: Sequence[str],
    worker: Worker,
    *,
    provenance: Provenance = PROVENANCE,
    overwrite: bool = False,
    workers: int = 1,
    on_progress: Callable[[Progress], None] = lambda _event: None,
) -> tuple[StageFolder, list[VideoRow]]:
    """What a stage does."""
    options, videos = RunOptions(overwrite=overwrite), [VideoRow(item, item * 4, item, f"{item}.mp4") for item in items]
    with enter_stage(workspace, provenance, options) as folder:
        work = StageWork[str](folder, provenance, FrameRow, worker)
        by_id = {item: item for item in items}
        summary = run_stage(work, videos, by_id, options, threads=workers, on_progress=on_progress)
    return folder, summary.videos


def _ids(folder: StageFolder) -> list[str]:
    return list(dict.fromkeys(read_table(folder.manifest_path, FrameRow)["video_id"].to_pylist()))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_leaves_parts_rows_and_a_manifest_in_the_given_order(
    workspace: Path, worker: Worker, workers: int
) -> None:
    folder, rows = _run(workspace, ["c", "a", "b"], worker, workers=workers)
    assert _ids(folder) == ["c", "a", "b"]
    assert [(row.status, row.rows, row.error) for row in rows] == [("ok", 2, f"note of {item}") for item in "cab"]
    assert folder.read_videos() == rows
    for path in (folder.manifest_path, folder.videos_path, *folder.parts_folder.iterdir()):
        assert read_provenance(path) == PROVENANCE
    assert temporary_files(workspace) == []


def test_what_is_finished_is_not_done_again(workspace: Path, worker: Worker) -> None:
    _run(workspace, ["a", "b"], worker)
    folder, rows = _run(workspace, ["a", "b", "c"], worker)
    assert worker.calls == {"a": 1, "b": 1, "c": 1}
    assert _ids(folder) == ["a", "b", "c"]
    assert [row.error for row in rows] == ["note of a", "note of b", "note of c"]


def test_a_manifest_of_the_same_parts_is_not_written_again(workspace: Path, worker: Worker) -> None:
    folder, rows = _run(workspace, ["a", "b"], worker)
    before = folder.manifest_path.stat().st_ino, folder.manifest_path.read_bytes()
    _run(workspace, ["a", "b"], worker)
    assert (folder.manifest_path.stat().st_ino, folder.manifest_path.read_bytes()) == before
    write_table(
        rows_to_table([], FrameRow), folder.manifest_path, PROVENANCE
    )  # as an older version did, of other parts
    _, again = _run(workspace, ["a", "b"], worker)
    assert _ids(folder) == ["a", "b"] and again == rows and worker.calls == {"a": 1, "b": 1}


def test_the_manifest_is_that_of_the_current_items_and_parts_of_others_are_kept(
    workspace: Path, worker: Worker
) -> None:
    _run(workspace, ["a", "b"], worker)
    folder, _ = _run(workspace, ["b"], worker)
    assert _ids(folder) == ["b"]
    folder, _ = _run(workspace, ["b", "a"], worker)
    assert _ids(folder) == ["b", "a"]
    assert worker.calls == {"a": 1, "b": 1}


def test_an_item_named_twice_stands_in_the_manifest_once(workspace: Path, worker: Worker) -> None:
    folder, rows = _run(workspace, ["a", "a"], worker)
    assert len(rows) == 2
    assert read_table(folder.manifest_path).num_rows == 2


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("failure", "status", "error"),
    [
        (UnreadableError("a.mp4 is empty"), "unreadable", "a.mp4 is empty"),
        (InputError("no frame in the span"), "failed", "no frame in the span"),
        (OSError(errno.ENOSPC, "No space left", "x.png"), "failed", "no space left to write x.png; free some space"),
        (ZeroDivisionError("a strange file\nsecond line"), "failed", "ZeroDivisionError: a strange file"),
    ],
)
def test_a_failed_item_gets_a_row_and_no_part_and_is_tried_again(
    workspace: Path, worker: Worker, workers: int, failure: Exception, status: str, error: str
) -> None:
    worker.failures["b"] = failure
    folder, rows = _run(workspace, ["a", "b", "c"], worker, workers=workers)
    assert [row.status for row in rows] == ["ok", status, "ok"]
    assert rows[1].error is not None and rows[1].error.startswith(error)
    assert rows[1].rows == 0
    assert not folder.part_path("b").exists()
    assert _ids(folder) == ["a", "c"]

    del worker.failures["b"]
    folder, rows = _run(workspace, ["a", "b", "c"], worker, workers=workers)
    assert [row.status for row in rows] == ["ok", "ok", "ok"]
    assert worker.calls == {"a": 1, "b": 2, "c": 1}
    assert _ids(folder) == ["a", "b", "c"]


def test_a_failed_item_leaves_nothing_in_memory_and_no_thread_behind(workspace: Path) -> None:
    before, failure = threading.active_count(), InputError("broken")
    seen = []

    def process(item: str) -> ItemResult:
        frames = read_ahead(iter(range(1000)), depth=2)
        seen.append(next(frames))
        raise failure

    folder = open_stage(workspace, PROVENANCE, overwrite=False)
    failures = run_items(StageWork[str](folder, PROVENANCE, FrameRow, process), {"a": "a"}, RunOptions())
    assert seen == [0] and failures["a"] is failure
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_wrong_configuration_ends_the_run(workspace: Path, worker: Worker, workers: int) -> None:
    worker.failures["b"] = CheckpointError("not a detector")
    with pytest.raises(CheckpointError):
        _run(workspace, ["a", "b"], worker, workers=workers)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _without_provenance(path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


@pytest.mark.parametrize("damage", [_truncate, _empty, _without_provenance, Path.unlink])
def test_a_damaged_part_is_made_again(workspace: Path, worker: Worker, damage: Callable[[Path], None]) -> None:
    folder, before = _run(workspace, ["a", "b"], worker)
    damage(folder.part_path("a"))
    folder, after = _run(workspace, ["a", "b"], worker)
    assert worker.calls == {"a": 2, "b": 1}
    assert after == before
    assert _ids(folder) == ["a", "b"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_has_no_manifest_and_goes_on_where_it_was(
    workspace: Path, worker: Worker, workers: int
) -> None:
    _run(workspace, ["a"], worker)
    worker.failures["c"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _run(workspace, ["a", "b", "c", "d", "e"], worker, workers=workers)
    folder = StageFolder(workspace / "extract-frames")
    assert not folder.manifest_path.exists()
    assert folder.part_path("b").exists()
    with pytest.raises(ManifestError, match="extract-frames was not finished in .*; run: deepfake extract-frames"):
        open_upstream(workspace, "extract-frames")

    worker.failures.clear()
    folder, _ = _run(workspace, ["a", "b", "c", "d", "e"], worker, workers=workers)
    assert _ids(folder) == ["a", "b", "c", "d", "e"]
    assert worker.calls["a"] == worker.calls["b"] == 1


def test_changed_settings_are_refused_by_name_and_nothing_is_touched(workspace: Path, worker: Worker) -> None:
    folder, _ = _run(workspace, ["a"], worker)
    before = folder.manifest_path.read_bytes()
    changed = Provenance("extract-frames", 1, {"frames": 64})
    with pytest.raises(
        SettingsChangedError, match="frames was 32 and is now 64; pass --overwrite .* or use another workspace"
    ):
        _run(workspace, ["a"], worker, provenance=changed)
    assert folder.manifest_path.read_bytes() == before


def test_changed_settings_are_refused_also_where_only_parts_are_left(workspace: Path, worker: Worker) -> None:
    folder, _ = _run(workspace, ["a", "b"], worker)
    folder.manifest_path.unlink()
    folder.videos_path.unlink()
    _truncate(folder.part_path("a"))
    with pytest.raises(SettingsChangedError, match="frames was 32 and is now 64"):
        open_stage(workspace, Provenance("extract-frames", 1, {"frames": 64}), overwrite=False)


def test_overwrite_discards_what_was_made_before(workspace: Path, worker: Worker) -> None:
    folder, _ = _run(workspace, ["a", "b"], worker)
    (folder.root / "frames").mkdir()
    folder, _ = _run(
        workspace, ["a"], worker, provenance=Provenance("extract-frames", 1, {"frames": 64}), overwrite=True
    )
    assert worker.calls == {"a": 2, "b": 1}
    assert sorted(path.name for path in folder.root.iterdir()) == ["manifest.parquet", "parts", "videos.parquet"]
    assert read_provenance(folder.manifest_path).settings == {"frames": 64}


@pytest.mark.parametrize("linked", [".", "parts"])
def test_overwrite_discards_a_stage_that_is_a_link_or_holds_one(
    workspace: Path, worker: Worker, tmp_path: Path, linked: str
) -> None:
    folder, _ = _run(workspace, ["a", "b"], worker)
    place = folder.root / linked
    elsewhere = place.rename(tmp_path / "elsewhere")
    place.symlink_to(elsewhere, target_is_directory=True)
    other = Provenance("extract-frames", 1, {"frames": 64})
    folder, _ = _run(workspace, ["a"], worker, provenance=other, overwrite=True)
    assert [path.name for path in folder.parts_folder.iterdir()] == ["a.parquet"]
    assert read_provenance(folder.manifest_path) == other
    assert folder.root.is_symlink() is (linked == ".")


def test_a_workspace_that_can_not_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="could not write .*extract-frames"):
        open_stage(tmp_path / "file", PROVENANCE, overwrite=False)


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_what_was_done_before_and_ends_at_the_total(
    workspace: Path, worker: Worker, workers: int
) -> None:
    _run(workspace, ["a"], worker)
    events: list[Progress] = []
    _run(workspace, ["a", "b", "c"], worker, workers=workers, on_progress=events.append)
    assert [(event.done, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]


def test_a_missing_stage_is_named_with_the_command_that_makes_it(workspace: Path, worker: Worker) -> None:
    with pytest.raises(ManifestError, match="workspace .* does not exist; make it with: deepfake extract-frames"):
        open_upstream(workspace, "extract-frames")
    _run(workspace, ["a"], worker)
    with pytest.raises(ManifestError, match="detect-faces has not been run in .*; run: deepfake detect-faces"):
        open_upstream(workspace, "detect-faces")


@pytest.mark.parametrize(("maker", "is_accepted"), [("detect-faces", True), ("import-faces", True), ("train", False)])
def test_a_manifest_counts_only_for_the_stages_that_it_stands_for(
    workspace: Path, maker: str, is_accepted: bool
) -> None:
    path = workspace / "detect-faces" / "manifest.parquet"
    made_with = {"margin": 1.0, "detector": "d", "detector_sha256": "", "max_side": 960, "min_score": 0.8}
    write_table(rows_to_table([], FrameRow), path, Provenance(maker, 1, made_with))
    if is_accepted:
        assert open_upstream(workspace, "detect-faces")[1].stage == maker
    else:
        with pytest.raises(ManifestError, match="is a manifest of train, not of detect-faces"):
            open_upstream(workspace, "detect-faces")

"""Process the items of a stage: one after another, in threads, or in worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipelines.config import RunOptions
from pipelines.errors import ConfigError, DeepfakeError, InputError, describe_failure
from pipelines.records import rows_to_table
from pipelines.system.atomic_files import storage_error, sync_content
from pipelines.system.worker_pool import Limits, Lost, WorkerPool, choose_count
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.manifest import Provenance, write_table

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Failure = DeepfakeError | None


@dataclass(frozen=True)
class ItemResult:
    """The rows of one item."""

    rows: list[Any]
    status: str = "ok"
    note: str | None = None
    """A warning or the reason for the status; it becomes the row's `error`."""
    folder: Path | None = None
    """Contains the item's files."""


def nothing() -> None:
    """For stages with nothing to prepare."""


@dataclass(frozen=True)
class StageWork(Generic[Item]):
    """How a stage turns an item into a part. For worker processes it must be picklable: no lambdas."""

    folder: StageFolder
    provenance: Provenance
    row_type: type
    process: Callable[[Item], ItemResult]
    """Makes the rows of one item and writes its files."""
    prepare: Callable[[], object] = nothing
    """Slow work common to all items, such as loading a network; done once in each worker process."""

    def is_finished(self, item_id: str) -> bool:
        """Whether the item has an intact part with the same provenance."""
        return self.folder.has_part(item_id, self.provenance)

    def __call__(self, entry: tuple[str, Item]) -> Failure:
        """Process an item and write its part.

        Returns:
            The failure, if any, without its traceback, which would keep the item's frames in memory.
        """
        item_id, item = entry
        try:
            result = self.process(item)
            notes = {"status": result.status} | ({"note": result.note} if result.note else {})
            table = rows_to_table(result.rows, self.row_type)
            if (
                result.folder
            ):  # or a power cut could leave the part, which marks the item as finished, without its files
                sync_content(result.folder)
            write_table(table, self.folder.part_path(item_id), self.provenance, notes=notes)
        except ConfigError:
            raise
        except DeepfakeError as error:
            return error.with_traceback(None)
        except OSError as error:
            return storage_error(error, Path(error.filename or self.folder.parts_folder))
        except Exception as error:  # one odd file must not end a run of thousands; the traceback goes to the log
            log.exception("%s failed on %s", self.provenance.stage, item_id)
            return InputError(describe_failure(error))
        return None


def work_on_all(
    work: StageWork[Item], items: Sequence[tuple[str, Item]], options: RunOptions, threads: int = 1
) -> Iterator[tuple[str, Failure]]:
    """The id and failure of each item, in order of completion. Worker processes are used if the options ask for them.

    Raises:
        ConfigError: a problem that every item would meet; see also `WorkerPool.run`.
    """
    if options.isolate and items:
        count = choose_count(options.workers, len(items), options.device)
        pool = WorkerPool[tuple[str, Item], Failure](
            partial(_prepared, work), count, Limits(options.timeout_seconds, options.max_memory_mb)
        )
        with closing(pool.run(items)) as results:
            for place, result in results:
                yield items[place][0], InputError(result.reason) if isinstance(result, Lost) else result
    elif threads <= 1:
        for item in items:
            yield item[0], work(item)
    else:
        yield from _work_in_threads(work, items, threads)


def _prepared(work: StageWork[Item]) -> StageWork[Item]:
    work.prepare()
    return work


def _work_in_threads(
    work: StageWork[Item], items: Sequence[tuple[str, Item]], threads: int
) -> Iterator[tuple[str, Failure]]:
    """At most `threads` items are started at a time, so an interruption waits for those and no others."""
    queue = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running: dict[Future[Failure], str] = {pool.submit(work, item): item[0] for item in islice(queue, threads)}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
                for item in islice(queue, 1):
                    running[pool.submit(work, item)] = item[0]

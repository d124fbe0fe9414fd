"""Work on the items of a stage: one after another, in threads, or in processes of their own."""

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
from pipelines.workspace.manifest import Provenance, write_table

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Failure = DeepfakeError | None


@dataclass(frozen=True)
class ItemResult:
    """What processing one item gave."""

    rows: list[Any]
    status: str = "ok"
    note: str | None = None
    """A warning or the reason of a status; it becomes the row's `error`."""
    folder: Path | None = None
    """Where the item's files lie."""


def nothing() -> None:
    """Where there is nothing to prepare."""


@dataclass(frozen=True)
class ItemWork(Generic[Item]):
    """From an item to its part. To work in other processes, all that is in it must be picklable: no lambdas."""

    parts_folder: Path
    provenance: Provenance
    row_type: type
    process: Callable[[Item], ItemResult]
    """Makes the rows of one item and writes its files."""
    id_of: Callable[[Item], str]
    prepare: Callable[[], object] = nothing
    """What may take long and is the same for all items, such as loading a network."""

    def __call__(self, item: Item) -> Failure:
        """The failure, if there is one, without its traceback: that would hold the frames that were in work."""
        item_id = self.id_of(item)
        try:
            result = self.process(item)
            notes = {"status": result.status} | ({"note": result.note} if result.note else {})
            table = rows_to_table(result.rows, self.row_type)
            if result.folder:  # or a power cut could leave the part, which says that it is finished, and not its files
                sync_content(result.folder)
            write_table(table, self.parts_folder / f"{item_id}.parquet", self.provenance, notes=notes)
        except ConfigError:
            raise
        except DeepfakeError as error:
            return error.with_traceback(None)
        except OSError as error:
            return storage_error(error, Path(error.filename or self.parts_folder))
        except Exception as error:  # one strange file must not end a run of thousands; the traceback goes to the log
            log.exception("%s failed on %s", self.provenance.stage, item_id)
            return InputError(describe_failure(error))
        return None


def work_on_all(
    work: ItemWork[Item], items: Sequence[Item], options: RunOptions, threads: int = 1
) -> Iterator[tuple[Item, Failure]]:
    """Each item with its failure, as they are done: in processes of their own where the options say so, else in threads.

    Raises:
        ConfigError: no item would fare better; see also `WorkerPool.run`.
    """
    if options.isolate and items:
        count = choose_count(options.workers, len(items), options.device)
        pool = WorkerPool[Item, Failure](
            partial(_prepared, work), count, Limits(options.timeout_seconds, options.max_memory_mb)
        )
        with closing(pool.run(items)) as results:
            for place, result in results:
                yield items[place], InputError(result.reason) if isinstance(result, Lost) else result
    elif threads <= 1:
        for item in items:
            yield item, work(item)
    else:
        yield from _work_in_threads(work, items, threads)


def _prepared(work: ItemWork[Item]) -> ItemWork[Item]:
    work.prepare()
    return work


def _work_in_threads(work: ItemWork[Item], items: Sequence[Item], threads: int) -> Iterator[tuple[Item, Failure]]:
    """At most `threads` items are handed out at a time, so an interruption waits for those and no others."""
    queue = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running: dict[Future[Failure], Item] = {pool.submit(work, item): item for item in islice(queue, threads)}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
                for item in islice(queue, 1):
                    running[pool.submit(work, item)] = item

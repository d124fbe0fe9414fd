"""One run at a time in each stage of a workspace; its shards may run at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.config import Shard
from pipelines.errors import ConfigError
from pipelines.system.file_lock import BusyError, hold_lock


@contextmanager
def hold_stage(workspace: Path | str, stage: str, shard: Shard | None = None) -> Iterator[None]:
    """Lock a stage against other runs until the block ends or the process dies.

    Raises:
        ConfigError: another run is working on it.
        StorageError: the workspace cannot be written.
    """
    lock = Path(workspace) / f".{stage}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(hold_lock(lock, wait=False, is_shared=shard is not None))
            if shard:
                own = lock.with_name(f".{stage}.{shard.index}-of-{shard.count}.lock")
                held.enter_context(hold_lock(own, wait=False))
        except BusyError as error:
            raise ConfigError(
                f"another run of {stage} is at work in {workspace}; wait until it ends, or use another workspace"
            ) from error
        yield

"""Lock files: one process or thread at a time."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.system.atomic_files import make_folder, storage_error

POLL_SECONDS = 0.1
LOCKED_BYTE = 1 << 30
"""On Windows: an offset past the end of any file locked here."""

log = logging.getLogger(__name__)


class BusyError(Exception):
    """The lock is already held."""


@contextmanager
def hold_lock(path: Path, *, wait: bool = True, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; the lock ends with the process, however that ends.

    The file is never removed: otherwise two processes could hold locks on two different files of that name.

    Args:
        wait: wait for other processes and threads that hold it.
        is_shared: several may hold it as shared, but not while one holds it exclusively. No effect on Windows.

    Raises:
        BusyError: it is already held, and `wait` is False.
        StorageError: the file cannot be written.
    """
    try:
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        _wait_for(descriptor, path, wait=wait, is_shared=is_shared)
        yield
    finally:  # closing frees the lock
        os.close(descriptor)


def _wait_for(descriptor: int, path: Path, *, wait: bool, is_shared: bool) -> None:
    is_logged = False
    while not try_lock(descriptor, is_shared=is_shared):
        if not wait:
            raise BusyError
        if not is_logged:
            log.info("waiting for another run that holds %s", path)
        is_logged = True
        time.sleep(POLL_SECONDS)


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock an open file until it is closed; False if another process or thread holds the lock.

    On a file system without locks (some network ones) this always succeeds.
    """
    try:
        return _try_lock(descriptor, is_shared=is_shared)
    except OSError as error:
        log.debug("this file system has no locks: %s", error)
        return True


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, is_shared: bool) -> bool:
        if is_shared:
            return True
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)  # a locked byte cannot be read by others
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int, *, is_shared: bool) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

"""One at a time: a file that is locked by whoever works beside it."""

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
"""On Windows: past the end of any file that is locked here."""

log = logging.getLogger(__name__)


class BusyError(Exception):
    """Somebody else holds the lock."""


@contextmanager
def hold_lock(path: Path, *, wait: bool = True, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock `path`; it goes with the process, however that ends.

    The file stays: were it removed, two could hold locks on two files of that name.

    Args:
        wait: for other processes and threads that hold it.
        is_shared: several may hold it so, but nobody else; on Windows nobody keeps others out so.

    Raises:
        BusyError: somebody holds it, and `wait` is off.
        StorageError: the file can not be written.
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
    is_told = False
    while not try_lock(descriptor, is_shared=is_shared):
        if not wait:
            raise BusyError
        if not is_told:
            log.info("waiting for another run that holds %s", path)
        is_told = True
        time.sleep(POLL_SECONDS)


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock an open file until it is closed; False if somebody else holds it.

    A file system that knows no locks, as some on networks, is worked on without.
    """
    try:
        return _try_lock(descriptor, is_shared=is_shared)
    except OSError as error:
        log.debug("this file system knows no locks: %s", error)
        return True


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int, *, is_shared: bool) -> bool:
        if is_shared:
            return True
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)  # nobody can read what is locked
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

"""Files and folders that a crash, a power cut or a full disk leaves either complete or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import StorageError

_NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)
"""Errors of file systems (mostly network ones) that cannot flush folders, or of a folder that may be written but not read."""


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success flush it to disk and rename it to `path`, else remove it.

    The name is always the same, so whatever a kill -9 leaves behind is overwritten by the next run.

    Raises:
        StorageError: the output could not be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        make_folder(path.parent)
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that they, and what is written to them, survive a power cut."""
    if folder.is_dir() or folder == folder.parent:
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("r+b") as file:  # Windows flushes only files opened for writing
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk; Windows and some file systems ensure that themselves."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FLUSHED:
            raise


def sync_content(folder: Path) -> None:
    """Wait until a folder and the files directly in it are on the disk; subfolders are not included."""
    for entry in os.scandir(folder):
        if entry.is_file(follow_symlinks=False):
            sync_file(Path(entry.path))
    sync_folder(folder)
    sync_folder(folder.parent)


def remove_for_good(path: Path) -> None:
    """Remove a file, if it exists, so that no power cut brings it back.

    Raises:
        StorageError: it cannot be removed.
    """
    try:
        if path.exists():
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """A failed write as an error with cause and remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left to write {path}; free some space or choose another folder, then run again")
    if error.errno == errno.EFBIG:
        return StorageError(f"{path} reached the file size limit; raise it (ulimit -f), then run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"no permission to write {path}; make the folder writable or choose another")
    return StorageError(f"could not write {path}: {error.strerror or error}; check the disk, then run again")

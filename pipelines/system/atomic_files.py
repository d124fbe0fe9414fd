"""Files and folders that a crash, a power cut or a full disk leaves either whole or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import StorageError

_NOT_FLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)
"""How file systems, most of them on networks, say that they do not flush folders; or it may be written, but not read."""


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it into place, else remove it.

    The name is always the same, so what a kill -9 leaves is overwritten when the work is done again.

    Raises:
        StorageError: the output could not be written.
    """
    beside = path.with_name(f".{path.name}.tmp")
    try:
        make_folder(path.parent)
        yield beside
        sync_file(beside)
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            pass


def make_folder(folder: Path) -> None:
    """Make a folder and those it lies in, so that no power cut takes them away with what they hold."""
    if folder.is_dir() or folder == folder.parent:
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until it is on the disk which names a folder holds; Windows and some file systems see to it themselves."""
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
    """Wait until the files of a folder, and the folder itself, are on the disk. Folders in it are left out."""
    for entry in os.scandir(folder):
        if entry.is_file(follow_symlinks=False):
            sync_file(Path(entry.path))
    sync_folder(folder)
    sync_folder(folder.parent)


def remove_for_good(path: Path) -> None:
    """Remove a file, if it is there, so that no power cut brings it back.

    Raises:
        StorageError: it can not be removed.
    """
    try:
        if path.exists():
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> StorageError:
    """The error of a failed write as a line with cause and remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left to write {path}; free some space or choose another folder, then run again")
    if error.errno == errno.EFBIG:
        return StorageError(f"{path} reached the file size limit; raise it (ulimit -f), then run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"no permission to write {path}; make the folder writable or choose another")
    return StorageError(f"could not write {path}: {error.strerror or error}; check the disk, then run again")

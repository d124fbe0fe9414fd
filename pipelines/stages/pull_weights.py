"""`weights pull`: a registered file from its publisher's address into the cache, its digest checked on the way."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import weights
from pipelines.checkpoints.cache import pulled_path
from pipelines.checkpoints.download import download
from pipelines.checkpoints.weights_files import is_digest_of, resolve_weights
from pipelines.errors import CheckpointError, DownloadError
from pipelines.system.atomic_files import replace_atomically, storage_error
from pipelines.system.file_digest import file_digest
from pipelines.system.file_lock import hold_lock
from pipelines.system.progress import ProgressCallback, ignore_progress
from weights import WeightsEntry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PulledWeights:
    """An intact registered file."""

    path: Path
    sha256: str
    bytes: int
    was_there: bool
    """Nothing was fetched."""


def pull_weights(
    name: str, *, overwrite: bool = False, on_progress: ProgressCallback = ignore_progress
) -> PulledWeights:
    """The file of a registry name in the cache, downloaded if it is missing or damaged.

    An interrupted pull is resumed. The file gets its name only after its digest was checked, so a file under that name is
    always usable; a second pull at the same time waits for the first.

    Args:
        overwrite: download it again from the first byte.

    Raises:
        CheckpointError: unknown name, or one that has no address.
        DownloadError: not reachable, not served, or not the file that the registry knows.
        StorageError: the cache cannot be written, or is full.
    """
    entry = weights.find_entry(name)
    if entry is None:
        raise CheckpointError(f"unknown weights {name!r}; known: {', '.join(weights.REGISTRY)}")
    path = pulled_path(entry)
    if entry.is_embedded or path is None:
        embedded = resolve_weights(name, kind=entry.kind)  # says what to do where there is no address
        return _describe(embedded.path, embedded.sha256, was_there=True)
    with hold_lock(path.with_name(f".{path.name}.lock")):
        if not overwrite and path.is_file():
            digest = file_digest(path)
            if is_digest_of(entry, digest):
                return _describe(path, digest, was_there=True)
            log.warning("%s is not the registered file; it is fetched again", path)
        part = path.with_name(f"{path.name}.part")
        if overwrite:
            _remove(part)
        digest = _fetch(entry, part, on_progress)
        with replace_atomically(path) as temporary:
            os.replace(part, temporary)
        return _describe(path, digest, was_there=False)


def _fetch(entry: WeightsEntry, part: Path, on_progress: ProgressCallback) -> str:
    """Leave the right content in `part` and return its digest; what went on with older bytes is worth a second try."""
    assert entry.url is not None
    tries = 2 if part.is_file() else 1
    digest = ""
    for _ in range(tries):
        download(entry.url, part, task=f"pull {entry.name}", on_progress=on_progress)
        digest = file_digest(part)
        if is_digest_of(entry, digest):
            return digest
        _remove(part)
    raise DownloadError(
        f"{entry.url} is not the registered file: its SHA-256 is {digest}, not {entry.sha256}; nothing was kept. "
        "Run the same command again; if it stays so, a proxy or the publisher has changed the file: do not use it"
    )


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, part) from error


def _describe(path: Path, digest: str, *, was_there: bool) -> PulledWeights:
    return PulledWeights(path, digest, path.stat().st_size, was_there)

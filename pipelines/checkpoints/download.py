"""Download one file over HTTPS into a part file, which a later attempt resumes."""

from __future__ import annotations

import http.client
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pipelines.errors import DownloadError, StorageError
from pipelines.system.atomic_files import storage_error
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress

ATTEMPTS = 4
PAUSE_SECONDS = 1.0
"""After the first attempt; after each further one, longer by as much."""
TIMEOUT_SECONDS = 30.0
"""Of connecting, and of each wait for more."""
MAX_BYTES = 4 << 30
"""Of a file: a server that never ends must not fill the disk."""

_BLOCK_BYTES = 1 << 18
_BUSY = (408, 429, 500, 502, 503, 504)
_RANGE_NOT_SATISFIABLE = 416
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<begin>\d+)-\d+|\*)/(?:(?P<total>\d+)|\*)")

log = logging.getLogger(__name__)


class _CutError(Exception):
    """The answer ended early, or the server asked for a retry: worth another attempt."""


def download(url: str, part: Path, *, task: str, on_progress: ProgressCallback = ignore_progress) -> None:
    """Complete `part` to the file that `url` serves; bytes it already has are not fetched again.

    Whether the content is right is the caller's to check: what `part` held may have been of another file. Proxies are
    those of `http_proxy`, `https_proxy` and `no_proxy`. Progress is in bytes; a total of 0 is one that is not known.

    Raises:
        DownloadError: not reachable, not served, cut too often, or too large; `part` keeps what has come.
        StorageError: `part` could not be written, or the disk has no room for it.
    """
    if not _is_safe(url):
        raise DownloadError(f"{url} is refused: files are pulled over https only")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_rest(url, part, task, on_progress)
            return
        except _CutError as error:
            log.info("attempt %d of %d to fetch %s: %s", attempt, ATTEMPTS, url, error)
            cause = error
        except OSError as error:
            raise storage_error(error, part) from error
        if attempt < ATTEMPTS:
            time.sleep(PAUSE_SECONDS * attempt)
    raise DownloadError(
        f"{url} was not fetched in {ATTEMPTS} attempts ({cause}); the bytes received are kept: run the same command again later"
    ) from cause


def _fetch_rest(url: str, part: Path, task: str, on_progress: ProgressCallback) -> None:
    held = part.stat().st_size if part.is_file() else 0
    with closing(_open(url, held)) as response:
        begin, total = _extent(response)
        if response.status == _RANGE_NOT_SATISFIABLE and total == held:
            return
        if begin not in (0, held):
            part.unlink(missing_ok=True)
            raise _CutError(f"the server does not go on at byte {held}")
        _check_room(part.parent, held, total)
        done = begin
        on_progress(Progress(task, done, total or 0, "B"))
        with part.open("ab" if begin else "wb") as file:
            for block in _blocks(response):
                done += file.write(block)
                if done > MAX_BYTES:
                    break
                on_progress(Progress(task, done, total or 0, "B"))
    if done > MAX_BYTES:
        part.unlink()
        raise DownloadError(f"{url} has more than {MAX_BYTES / 1e9:.1f} GB; no weights file is so large: do not use it")
    if total is not None and done != total:
        raise _CutError(f"{done} of {total} bytes came")


def _open(url: str, held: int) -> Any:
    """The server's answer, of status 200, 206 or 416."""
    headers = {"User-Agent": "deepfake", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    try:
        return build_opener(_SafeRedirects).open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if held and error.code == _RANGE_NOT_SATISFIABLE:
            return error
        error.close()
        if error.code in _BUSY:
            raise _CutError(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(
            f"the server answered {error.code} {error.reason} for {url}; get the file another way and pass its path instead"
        ) from error
    except URLError as error:
        raise DownloadError(
            f"{urlsplit(url).hostname} cannot be reached ({error.reason}); check the connection, and behind a proxy "
            f"https_proxy and SSL_CERT_FILE; or get {url} on another machine and pass the file's path instead"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"the server did not answer: {error or type(error).__name__}") from error


def _extent(response: Any) -> tuple[int | None, int | None]:
    """The byte that an answer begins at, and how many the whole file has; None where it does not say."""
    if response.status == 200:
        return 0, response.length
    said = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if said is None:
        return None, None
    begin, total = (int(said[name]) if said[name] else None for name in ("begin", "total"))
    if total is None and begin is not None and response.length is not None:
        total = begin + response.length
    return begin, total


def _blocks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            block = response.read1(_BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection was cut: {error or type(error).__name__}") from error
        if not block:
            return
        yield block


def _check_room(folder: Path, held: int, total: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and total - held > free:
        raise StorageError(
            f"{(total - held) / 1e6:.1f} MB are missing and {free / 1e6:.1f} MB are free in {folder}; "
            "free some space or name another folder in DEEPFAKE_CACHE, then run again"
        )


def _is_safe(url: str) -> bool:
    """Whether the connection is encrypted, or stays on this machine."""
    return urlsplit(url).scheme == "https" or _is_loopback(url)


def _is_loopback(url: str) -> bool:
    parts = urlsplit(url)
    try:
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.scheme == "http" and parts.hostname == "localhost"


class _SafeRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if urlsplit(newurl).scheme != "https" and not (_is_loopback(newurl) and _is_loopback(req.full_url)):
            raise DownloadError(
                f"{req.full_url} leads on to {newurl}, which is refused: files are pulled over https only"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

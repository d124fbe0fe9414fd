"""Pulled weights are whole and right before they can be used, whatever the server, the way or the disk do."""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from urllib.request import Request

import pytest

import weights
from pipelines import PulledWeights, pull_weights
from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.errors import CheckpointError, DownloadError, StorageError
from pipelines.system.progress import Progress
from tests.file_server import Answer, FileServer, closed_port, serve
from tests.support import wait_until
from weights import WeightsEntry

CONTENT = random.Random(0).randbytes(600_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "tested"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of `CONTENT`, which the registry knows as `NAME`; pauses take no time and there are no proxies."""
    monkeypatch.setattr("pipelines.checkpoints.download.PAUSE_SECONDS", 0)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    with serve(CONTENT) as started:
        _register(monkeypatch, url=started.url())
        yield started


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pulled files, not yet made."""
    monkeypatch.setenv("DEEPFAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def _register(monkeypatch: pytest.MonkeyPatch, *, url: str | None, sha256: str = DIGEST) -> None:
    entry = WeightsEntry(NAME, "checkpoint", sha256, licence="MIT", description="for tests", url=url)
    monkeypatch.setitem(weights.REGISTRY, NAME, entry)


def _leave_part(cache: Path, content: bytes) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / f"{NAME}.pth.part"
    part.write_bytes(content)
    return part


def _visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("[!.]*"))


def _is_whole(pulled: PulledWeights, cache: Path) -> bool:
    return (
        pulled == PulledWeights(cache / f"{NAME}.pth", DIGEST, len(CONTENT), was_there=False)
        and pulled.path.read_bytes() == CONTENT
        and _visible(cache) == [pulled.path.name]
    )


def test_a_pulled_file_is_whole_and_found_by_its_name(server: FileServer, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{NAME} is not part of the package; run: deepfake weights pull {NAME} "):
        resolve_weights(NAME, kind="checkpoint")
    events: list[Progress] = []
    assert _is_whole(pull_weights(NAME, on_progress=events.append), cache)
    found = resolve_weights(NAME, kind="checkpoint")
    assert (found.name, found.path, found.sha256) == (NAME, cache / f"{NAME}.pth", DIGEST)
    assert [events[0].done, events[-1].done] == [0, len(CONTENT)]
    assert {(event.total, event.unit) for event in events} == {(len(CONTENT), "B")}
    assert server.asked == [("GET /weights.pth", None)]


def test_a_file_that_is_there_is_not_fetched_again_unless_asked_for(server: FileServer, cache: Path) -> None:
    first = pull_weights(NAME)
    assert pull_weights(NAME) == replace(first, was_there=True)
    assert len(server.asked) == 1
    _leave_part(cache, CONTENT[:10])
    assert _is_whole(pull_weights(NAME, overwrite=True), cache)
    assert server.ranges == [None, None]


def test_a_damaged_file_is_refused_by_digest_and_pulled_again(server: FileServer, cache: Path) -> None:
    path = pull_weights(NAME).path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=f"is damaged: its SHA-256 is .*; run: deepfake weights pull {NAME}$"):
        resolve_weights(NAME, kind="checkpoint")
    assert _is_whole(pull_weights(NAME), cache)


@pytest.mark.parametrize("length", [8, 9, 63, 64])
def test_the_publishers_prefix_of_the_digest_is_enough(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    _register(monkeypatch, url=server.url(), sha256=DIGEST[:length])
    assert _is_whole(pull_weights(NAME), cache)
    assert resolve_weights(NAME, kind="checkpoint").sha256 == DIGEST


CUT = Answer(cut_after=200_000)


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        ([CUT], [None, "bytes=200000-"]),
        ([CUT, CUT, CUT], [None, "bytes=200000-", "bytes=400000-"]),
        ([Answer(cut_after=0)], [None, None]),
        ([Answer(status=503), Answer(status=429)], [None, None, None]),
        ([CUT, Answer(status=503)], [None, "bytes=200000-", "bytes=200000-"]),
        ([CUT, Answer(knows_ranges=False)], [None, "bytes=200000-"]),
        ([CUT, Answer(status=416)], [None, "bytes=200000-", None]),
        (
            [CUT, Answer(status=206, knows_ranges=False, content_range="bytes 0-599999/600000")],
            [None, "bytes=200000-"],
        ),
        ([CUT, Answer(content_range="bytes 7-599999/600000")], [None, "bytes=200000-", None]),
        ([CUT, Answer(content_range="nonsense")], [None, "bytes=200000-", None]),
        ([CUT, Answer(content_range="bytes 200000-599999/*")], [None, "bytes=200000-"]),
        ([Answer(tells_length=False)], [None]),
    ],
    ids=lambda value: None if isinstance(value[0], Answer) else " ".join(map(str, value)),
)
def test_what_was_cut_is_gone_on_with(
    server: FileServer, cache: Path, answers: list[Answer], ranges: list[str | None]
) -> None:
    server.answers = list(answers)
    assert _is_whole(pull_weights(NAME), cache)
    assert server.ranges == ranges


@pytest.mark.parametrize("held", [1, 250_000, len(CONTENT) - 1, len(CONTENT)])
def test_the_part_of_an_interrupted_pull_is_gone_on_with(server: FileServer, cache: Path, held: int) -> None:
    _leave_part(cache, CONTENT[:held])
    events: list[Progress] = []
    assert _is_whole(pull_weights(NAME, on_progress=events.append), cache)
    assert server.ranges == [f"bytes={held}-"]
    assert [event.done for event in events[:1]] == ([held] if held < len(CONTENT) else [])


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_part_of_another_file_is_given_up(server: FileServer, cache: Path, left: bytes) -> None:
    _leave_part(cache, left)
    assert _is_whole(pull_weights(NAME), cache)
    assert server.ranges == [f"bytes={len(left)}-", None]


def test_a_download_that_is_always_cut_keeps_what_has_come(server: FileServer, cache: Path) -> None:
    server.otherwise = Answer(cut_after=100_000)
    with pytest.raises(
        DownloadError, match="not fetched in 4 attempts .*the bytes received are kept: run the same command"
    ):
        pull_weights(NAME)
    assert _visible(cache) == [f"{NAME}.pth.part"]
    assert (cache / f"{NAME}.pth.part").read_bytes() == CONTENT[:400_000]
    server.otherwise = Answer()
    assert _is_whole(pull_weights(NAME), cache)
    assert server.ranges[-1] == "bytes=400000-"


@pytest.mark.parametrize("held", [0, 1000])
def test_a_wrong_file_is_never_left_under_the_name(server: FileServer, cache: Path, held: int) -> None:
    server.otherwise = Answer(corrupts=True)
    if held:
        _leave_part(cache, CONTENT[:held])
    wrong = hashlib.sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])).hexdigest()
    with pytest.raises(DownloadError, match=f"its SHA-256 is {wrong}, not {DIGEST}; nothing was kept. Run the same"):
        pull_weights(NAME)
    assert _visible(cache) == []
    assert len(server.asked) == (2 if held else 1)


def test_a_wrong_file_leaves_the_right_one_that_was_there(server: FileServer, cache: Path) -> None:
    pull_weights(NAME)
    server.otherwise = Answer(corrupts=True)
    with pytest.raises(DownloadError):
        pull_weights(NAME, overwrite=True)
    assert resolve_weights(NAME, kind="checkpoint").sha256 == DIGEST


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_not_served_is_asked_for_once(server: FileServer, cache: Path, status: int) -> None:
    server.otherwise = Answer(status=status)
    with pytest.raises(DownloadError, match=f"the server answered {status} .* for http.*pass its path instead"):
        pull_weights(NAME)
    assert (len(server.asked), _visible(cache)) == (1, [])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_without_a_connection_one_line_says_what_to_do(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    _register(monkeypatch, url=f"http://{host}:{closed_port()}/weights.pth")
    part = _leave_part(cache, CONTENT[:5])
    with pytest.raises(DownloadError, match=f"^{host} cannot be reached .*refused.*; check the connection, .*proxy"):
        pull_weights(NAME)
    assert part.read_bytes() == CONTENT[:5]


def test_an_answer_that_does_not_come_is_not_waited_for(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.checkpoints.download.TIMEOUT_SECONDS", 0.05)
    server.gate.clear()
    with pytest.raises(DownloadError, match=r"4 attempts \(the server did not answer: timed out\)"):
        pull_weights(NAME)


@pytest.mark.parametrize("location", ["http://example.org/w.pth", "ftp://127.0.0.1/w.pth", "file:///etc/hostname"])
def test_a_redirect_away_from_https_is_refused(server: FileServer, cache: Path, location: str) -> None:
    server.otherwise = Answer(status=302, location=location)
    with pytest.raises(DownloadError, match="which is refused: files are pulled over https only|answered 302"):
        pull_weights(NAME)
    assert (len(server.asked), _visible(cache)) == (1, [])


def test_a_publisher_can_not_redirect_to_this_machine() -> None:
    """Asked of the handler itself: a server with a certificate that is trusted is not to be had here."""
    from pipelines.checkpoints.download import _SafeRedirects

    request = Request("https://example.org/weights.pth")
    with pytest.raises(DownloadError, match="which is refused: files are pulled over https only"):
        _SafeRedirects().redirect_request(request, None, 302, "Found", Message(), "http://127.0.0.1/weights.pth")
    followed = _SafeRedirects().redirect_request(request, None, 302, "Found", Message(), "https://example.com/w.pth")
    assert followed is not None and followed.full_url == "https://example.com/w.pth"


def test_a_redirect_on_this_machine_is_followed_with_the_range(server: FileServer, cache: Path) -> None:
    _leave_part(cache, CONTENT[:5])
    server.answers = [Answer(status=302, location=server.url("moved.pth"))]
    assert _is_whole(pull_weights(NAME), cache)
    assert server.asked == [("GET /weights.pth", "bytes=5-"), ("GET /moved.pth", "bytes=5-")]


@pytest.mark.parametrize(
    "url",
    ["http://example.org/weights.pth", "ftp://127.0.0.1/weights.pth", "file:///etc/hostname", "http://127.0.0.1.org/w"],
)
def test_only_https_is_pulled_from(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    _register(monkeypatch, url=url)
    with pytest.raises(DownloadError, match="is refused: files are pulled over https only"):
        pull_weights(NAME)


def test_a_proxy_is_used(server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    url = f"http://127.0.0.1:{closed_port()}/weights.pth"
    _register(monkeypatch, url=url)
    assert _is_whole(pull_weights(NAME), cache)
    assert server.asked == [(f"GET {url}", None)]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(DownloadError, match="cannot be reached"):
        pull_weights(NAME, overwrite=True)


def test_https_goes_through_a_tunnel_of_the_proxy(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
    _register(monkeypatch, url="https://weights.invalid/weights.pth")
    with pytest.raises(DownloadError, match=r"weights.invalid cannot be reached \(Tunnel connection failed: 502"):
        pull_weights(NAME)
    assert server.asked == [("CONNECT weights.invalid:443", None)]


@pytest.mark.parametrize(("held", "free", "has_room"), [(0, 599_999, False), (0, 600_000, True), (5, 599_995, True)])
def test_a_disk_without_room_is_told_before_anything_is_written(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch, held: int, free: int, has_room: bool
) -> None:
    if held:
        _leave_part(cache, CONTENT[:held])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(10**9, 10**9 - free, free))
    if has_room:
        assert _is_whole(pull_weights(NAME), cache)
        return
    with pytest.raises(
        StorageError, match="0.6 MB are missing and 0.6 MB are free in .*another folder in DEEPFAKE_CACHE"
    ):
        pull_weights(NAME)
    assert _visible(cache) == []


def test_a_file_without_end_does_not_fill_the_disk(
    server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.checkpoints.download.MAX_BYTES", 300_000)
    server.otherwise = Answer(tells_length=False)
    events: list[Progress] = []
    with pytest.raises(DownloadError, match="no weights file is so large"):
        pull_weights(NAME, on_progress=events.append)
    assert max(event.done for event in events) <= 300_000
    assert _visible(cache) == []


def test_a_cache_that_can_not_be_written_is_told(server: FileServer, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="could not write .*cache"):
        pull_weights(NAME)


def test_two_pulls_at_once_fetch_once(server: FileServer, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Threads stand for processes: each opens the lock file itself, and the lock belongs to what was opened."""
    caplog.set_level(logging.INFO, "pipelines")
    logging.getLogger("pipelines").propagate = True
    server.gate.clear()
    done: list[PulledWeights] = []
    threads = [threading.Thread(target=lambda: done.append(pull_weights(NAME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: caplog.text.count("waiting for another run") == 2)
    server.gate.set()
    for thread in threads:
        thread.join()
    assert sorted(pulled.was_there for pulled in done) == [False, True, True]
    assert {pulled.path.read_bytes() for pulled in done} == {CONTENT}
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "unknown weights 'nothing'; known: retinaface-mobilenet0.25, "),
        (
            "retinaface-mobilenet0.25-official",
            "has no address to pull it from; get the file .* by hand and pass its path",
        ),
    ],
)
def test_a_name_without_an_address_is_refused(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        pull_weights(name)


def test_what_is_part_of_the_package_is_there(cache: Path) -> None:
    for entry in weights.REGISTRY.values():
        if entry.is_embedded:
            pulled = pull_weights(entry.name, overwrite=True)
            assert (pulled.path, pulled.sha256) == (weights.embedded_path(entry), entry.sha256)
            assert pulled.was_there and pulled.bytes == pulled.path.stat().st_size
    assert not cache.exists()

"""A web server on this machine that serves one file, well or badly, and notes what it was asked for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """How one request is answered; what is not said is as it should be."""

    status: int | None = None
    cut_after: int | None = None
    """Bytes of the body that are sent before the connection is closed."""
    corrupts: bool = False
    knows_ranges: bool = True
    tells_length: bool = True
    location: str | None = None
    content_range: str | None = None


@dataclass
class FileServer:
    content: bytes
    answers: list[Answer] = field(default_factory=list)
    """Of the first requests; the others are answered as they should be."""
    otherwise: Answer = field(default_factory=Answer)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Request line without the protocol, and the `Range` that was asked for."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Answers are held back until it is set."""
    port: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.asked]

    def url(self, name: str = "weights.pth") -> str:
        return f"http://127.0.0.1:{self.port}/{name}"


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_request: Any) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, server: FileServer, *arguments: Any) -> None:
        self.plan = server
        super().__init__(*arguments)

    def log_message(self, *_arguments: Any) -> None:
        """The tests look at `asked`."""

    def do_CONNECT(self) -> None:
        self.plan.asked.append((f"CONNECT {self.path}", None))
        self.send_error(502)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.plan.asked.append((f"GET {self.path}", wanted))
        answer = self.plan.answers.pop(0) if self.plan.answers else self.plan.otherwise
        self.plan.gate.wait(10)
        content = self.plan.content
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and answer.knows_ranges else 0  # type: ignore[index]
        status = answer.status or (416 if begin >= len(content) else 206 if begin else 200)
        body = b"" if status >= 300 else content[begin:]
        if answer.corrupts:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        if answer.location is not None:
            self.send_header("Location", answer.location)
        if status == 206:
            content_range = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", answer.content_range or content_range)
        if status == 416:
            self.send_header("Content-Range", answer.content_range or f"bytes */{len(content)}")
        if answer.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: answer.cut_after])


@contextmanager
def serve(content: bytes) -> Iterator[FileServer]:
    """Serve on a free port until the end of the block."""
    plan = FileServer(content)
    with _Server(("127.0.0.1", 0), partial(_Handler, plan)) as server:
        plan.port = server.server_port
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield plan
        plan.gate.set()
        server.shutdown()
        thread.join()


def closed_port() -> int:
    """A port on which no server listens."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return server.server_port

"""Runs the program in separate processes that start quickly: they are forked from one that has imported torch.

They can be killed (or hit by other disasters) before their n-th change to a folder, given a limit on the size of files, and
sent signals.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.reliability.watch import Disaster, Record, Watch

REPOSITORY = Path(__file__).parents[1]
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it said."""

    exit_code: int
    """Negative: the signal that killed it."""
    stdout: str
    stderr: str
    changes: int
    """Number of changes to the watched folder; -1 for a killed process."""
    record: Record
    """What a killed process had flushed."""


@dataclass
class Running:
    """A running process."""

    server: ForkServer
    pid: int
    folder: Path

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def read_stdout(self) -> str:
        path = self.folder / "stdout"
        return path.read_text("utf-8") if path.is_file() else ""

    def wait_for_line(self) -> None:
        """Wait until the process has printed a line."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while "\n" not in self.read_stdout():
            if time.monotonic() > deadline:
                raise TimeoutError("the process printed nothing")
            time.sleep(0.002)

    def wait(self) -> Ended:
        exit_code = self.server.read_reply()["exit_code"]
        changes, record = self.folder / "changes", self.folder / "record"
        return Ended(
            exit_code,
            self.read_stdout(),
            (self.folder / "stderr").read_text("utf-8"),
            int(changes.read_text()) if changes.is_file() else -1,
            Record.from_json(record.read_text()) if record.is_file() else Record(),
        )


class ForkServer:
    """The process that forks. One run at a time."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT_SECONDS)
        self._process.stdout.close()
        self._folder.cleanup()

    def start(
        self,
        *arguments: object,
        watch: Path | None = None,
        at: int = 0,
        disaster: Disaster = "kill",
        max_file_bytes: int = 0,
        cwd: Path | None = None,
    ) -> Running:
        """Start `deepfake` with these arguments.

        Args:
            watch: a folder; the disaster strikes before the process changes it for the `at`-th time; 0: never.
            max_file_bytes: the largest size of a file, as if the disk were full; 0: no limit.
        """
        assert self._process.stdin is not None
        self._number += 1
        folder = Path(self._folder.name) / str(self._number)
        folder.mkdir()
        request = {
            "arguments": [str(argument) for argument in arguments],
            "folder": str(folder),
            "watch": str(watch or ""),
            "at": at,
            "disaster": disaster,
            "max_file_bytes": max_file_bytes,
            "cwd": str(cwd or REPOSITORY),
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Running(self, self.read_reply()["pid"], folder)

    def run(self, *arguments: object, **settings: Any) -> Ended:
        """`start`, then wait for the end."""
        return self.start(*arguments, **settings).wait()

    def read_reply(self) -> dict[str, int]:
        assert self._process.stdout is not None
        reply: dict[str, int] = json.loads(self._process.stdout.readline())
        return reply


def serve() -> None:
    """Do the slow imports, then fork a process for each line of standard input."""
    import pandas  # noqa: F401 - by pyarrow, when it first meets a value

    import pipelines.scoring.detector
    import pipelines.stages.detect_faces
    import pipelines.stages.extract_frames
    import pipelines.stages.import_faces
    import pipelines.stages.index
    import pipelines.stages.merge
    import pipelines.stages.predict
    import pipelines.stages.train
    import pipelines.training.loop  # noqa: F401
    from deepfake_cli import options
    from deepfake_cli.app import app  # noqa: F401

    options.ISOLATE = False
    gc.freeze()  # keep the memory of imported modules shared between the processes
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(request)
        _reply({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _reply({"exit_code": os.waitstatus_to_exitcode(status)})


def _reply(value: dict[str, int]) -> None:
    print(json.dumps(value), flush=True)


def _run(request: dict[str, Any]) -> None:
    """In the new process: never returns."""
    from deepfake_cli.app import app

    folder = Path(request["folder"])
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    watch = Watch(Path(request["watch"]), request["at"], request["disaster"], folder) if request["watch"] else None
    if request["max_file_bytes"]:
        _limit_file_size(request["max_file_bytes"])
    code = 0
    try:
        app(request["arguments"], prog_name="deepfake")
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if watch:
        (folder / "changes").write_text(str(watch.count))
    os._exit(code)


def _limit_file_size(num_bytes: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


if __name__ == "__main__":
    serve()

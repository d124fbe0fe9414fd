"""Watches what a process changes in a folder, and triggers a disaster before its n-th change.

Python reports its changes through audit events; what C code writes appears as a file that was never flushed.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import sys
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Disaster = Literal["kill", "power cut", "full disk", "read-only", "vanished"]
"""`kill`: SIGKILL. `power cut`: the same, with a record of what was not flushed. `full disk` and `read-only`: from the n-th
change on, none that needs space, or none at all, succeeds. `vanished`: what lies in the folder is moved out of the way."""

WRITING_FLAGS = os.O_WRONLY | os.O_RDWR
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""Audit events that change a folder; `open` for writing is another."""
AWAY = ".away"


@dataclass(frozen=True)
class Change:
    """A change to a folder's entries that a power cut may undo."""

    kind: str
    """The audit event."""
    folder: int
    """Inode of the folder whose names change; a negative number for one that was removed since: inodes are used again."""
    name: str
    new_name: str = ""
    """Of what is renamed."""
    kept: str = ""
    """A link to the file that the change takes away."""
    removed: int = 0
    """The number that changes in a removed folder carry from then on."""


@dataclass
class Record:
    """What is certainly on the disk; a power cut may lose the rest."""

    flushed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Size and modification time of files, by inode, when they were flushed last."""
    pending: list[Change] = field(default_factory=list)
    """Changes of folders that were not flushed since, in their order."""

    def to_json(self) -> str:
        return json.dumps({"flushed": list(self.flushed.items()), "pending": [asdict(one) for one in self.pending]})

    @classmethod
    def from_json(cls, text: str) -> Record:
        value = json.loads(text)
        flushed = {inode: tuple(known) for inode, known in value["flushed"]}
        return cls(flushed, [Change(**one) for one in value["pending"]])


class Watch:
    """Counts the changes to a folder from here on; before change `at`, the disaster comes."""

    def __init__(self, folder: Path, at: int, disaster: Disaster, notes: Path) -> None:
        self.count = 0
        self._folder, self._at, self._disaster, self._notes = folder, at, disaster, notes
        self._lock = threading.RLock()
        self._is_busy = False
        self._record = Record({entry.stat().st_ino: _state(entry.stat()) for entry in _files_in(folder)})
        os.fsync = self._note_flush
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        with self._lock:
            if self._is_busy:
                return
            self._is_busy = True
            try:
                self._look_at(event, arguments)
            finally:
                self._is_busy = False

    def _look_at(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING_FLAGS
        if not is_write and event not in CHANGES:
            return
        if not isinstance(arguments[0], str | os.PathLike):
            return
        path = _path_of(arguments[0], arguments[-2 if event == "os.rename" else -1] if event in CHANGES else -1)
        if self._folder not in path.parents or (event in CHANGES and os.path.lexists(path) == (event == "os.mkdir")):
            return
        self.count += 1
        if self.count >= self._at > 0:
            self._strike(event, path)
        self._note_change(event, path, arguments)

    def _strike(self, event: str, path: Path) -> None:
        if self._disaster in ("kill", "power cut"):
            (self._notes / "record").write_text(self._record.to_json())
            os.kill(os.getpid(), signal.SIGKILL)
        if self._disaster == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        if self._disaster == "full disk" and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self._disaster == "vanished" and self.count == self._at:
            top = self._folder / path.relative_to(self._folder).parts[0]
            if top.is_dir():
                top.rename(top.with_name(top.name + AWAY))

    def _note_change(self, event: str, path: Path, arguments: tuple[Any, ...]) -> None:
        """What the change will be, if it does not fail."""
        if not path.parent.is_dir() or (event == "open" and path.exists()):
            return
        folder = path.parent.stat().st_ino
        if event == "os.rename":
            target = _path_of(arguments[1], arguments[3])
            self._record.pending.append(Change(event, folder, path.name, target.name, self._keep(target)))
        elif event == "os.rmdir":
            self._set_apart(path.stat().st_ino)
            self._record.pending.append(Change(event, folder, path.name, removed=-self.count))
        else:
            self._record.pending.append(Change(event, folder, path.name, kept=self._keep(path)))

    def _set_apart(self, inode: int) -> None:
        """The changes in a folder that is about to go: another one may have its inode next."""
        self._record.pending = [
            replace(one, folder=-self.count) if one.folder == inode else one for one in self._record.pending
        ]

    def _keep(self, path: Path) -> str:
        """A link to a file that is about to go."""
        if self._disaster != "power cut" or not path.is_file():
            return ""
        kept = self._notes / f"kept-{self.count}"
        os.link(path, kept)
        return str(kept)

    def _note_flush(self, descriptor: int) -> None:
        """Replaces `os.fsync`, which would take time without a visible effect."""
        status = os.fstat(descriptor)
        with self._lock:
            if stat.S_ISDIR(status.st_mode):
                self._record.pending = [one for one in self._record.pending if one.folder != status.st_ino]
            else:
                self._record.flushed[status.st_ino] = _state(status)


def _path_of(name: str | os.PathLike[str], descriptor: int) -> Path:
    """Absolute, of a name relative to an open folder or to the current one."""
    base = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else os.getcwd()
    return Path(os.path.normpath(os.path.join(base, name)))


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _files_in(folder: Path) -> list[Path]:
    return [entry for entry in folder.rglob("*") if entry.is_file() and not entry.is_symlink()]

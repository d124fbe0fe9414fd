"""What a power cut takes from a folder: any part of what was not flushed.

Of a file, everything behind what was flushed may be missing, or all of it. Of a folder, changes of names since it was flushed
may not have happened: the last ones, as many as chance has it, for each folder by itself.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from random import Random

from tests.reliability.watch import Change, Record

ABSENT_SHARE = 0.25
"""Of the files that are new and were never flushed."""


def cut_power(folder: Path, record: Record, rng: Random) -> None:
    """Take from the folder what a power cut might have."""
    _undo_changes(folder, record.pending, rng)
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file() and not entry.is_symlink()):
        status = path.stat()
        flushed = record.flushed.get(status.st_ino)
        if flushed == (status.st_size, status.st_mtime_ns):
            continue
        if flushed is None and rng.random() < ABSENT_SHARE:
            path.unlink()
            continue
        certain = flushed[0] if flushed and flushed[0] <= status.st_size else 0
        os.truncate(path, rng.choice((certain, rng.randint(certain, status.st_size), status.st_size)))


def _undo_changes(folder: Path, pending: list[Change], rng: Random) -> None:
    """From the last to the first, so that each finds what it left."""
    numbers = Counter(change.folder for change in pending)
    undone = {inode: rng.choice((0, rng.randint(0, number), number)) for inode, number in numbers.items()}
    back: dict[int, Path] = {}
    """Removed folders that are there again."""
    for change in reversed(pending):
        if undone[change.folder]:
            undone[change.folder] -= 1
            parent = back.get(change.folder) or _find_folder(folder, change.folder)
            if parent is not None:
                _undo(change, parent)
                if change.removed:
                    back[change.removed] = parent / change.name


def _find_folder(root: Path, inode: int) -> Path | None:
    folders = (root, *(entry for entry in root.rglob("*") if entry.is_dir()))
    return next((entry for entry in folders if entry.stat().st_ino == inode), None)


def _undo(change: Change, parent: Path) -> None:
    path = parent / change.name
    if change.kind in ("open", "os.mkdir"):
        _remove(path)
    elif change.kind == "os.rmdir":
        path.mkdir(exist_ok=True)
    elif change.kind == "os.rename" and (parent / change.new_name).exists():
        _remove(path)
        (parent / change.new_name).rename(path)
    restored = parent / (change.new_name or change.name)
    if change.kept and not restored.exists():
        os.link(change.kept, restored)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""The power cut of these tests takes what was not flushed, all of it or a part, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.reliability.power_cut import cut_power
from tests.reliability.watch import Change, Record

CONTENT = b"0123456789"
SEEDS = 60


def _flushed(path: Path, size: int | None = None) -> dict[int, tuple[int, int]]:
    status = path.stat()
    return {status.st_ino: (status.st_size if size is None else size, status.st_mtime_ns if size is None else 0)}


def _outcomes(folder: Path, make: Callable[[Path], Record]) -> set[tuple[tuple[str, bytes], ...]]:
    """What may be left of the files that `make` writes."""
    outcomes = set()
    for seed in range(SEEDS):
        here = folder / str(seed) / "here"
        here.mkdir(parents=True)
        cut_power(here, make(here), Random(seed))
        outcomes.add(tuple((path.name, path.read_bytes()) for path in sorted(here.iterdir())))
    return outcomes


def _write(path: Path, content: bytes = CONTENT) -> Path:
    path.write_bytes(content)
    return path


def test_a_file_that_was_never_flushed_is_cut_anywhere_or_absent(tmp_path: Path) -> None:
    def make(folder: Path) -> Record:
        _write(folder / "a")
        return Record()

    outcomes = _outcomes(tmp_path, make)
    assert {(), (("a", b""),), (("a", CONTENT),)} < outcomes
    assert all(not files or CONTENT.startswith(files[0][1]) for files in outcomes)
    assert len(outcomes) > 8


@pytest.mark.parametrize("certain", [10, 4])
def test_what_was_flushed_stays(tmp_path: Path, certain: int) -> None:
    def make(folder: Path) -> Record:
        return Record(_flushed(_write(folder / "a"), None if certain == len(CONTENT) else certain))

    assert {files[0][1] for files in _outcomes(tmp_path, make)} == {
        CONTENT[:size] for size in range(certain, len(CONTENT) + 1)
    }


def test_names_of_a_folder_that_was_not_flushed_may_be_as_they_were(tmp_path: Path) -> None:
    def make(folder: Path) -> Record:
        old, new = _write(folder / "file", b"old"), _write(folder / ".file.tmp", b"new")
        flushed = _flushed(old) | _flushed(new)
        os.link(old, folder.parent / "kept")
        os.replace(new, old)
        inode = folder.stat().st_ino
        pending = [
            Change("open", inode, ".file.tmp"),
            Change("os.rename", inode, ".file.tmp", "file", str(folder.parent / "kept")),
        ]
        return Record(flushed, pending)

    assert _outcomes(tmp_path, make) == {
        (("file", b"new"),),
        ((".file.tmp", b"new"), ("file", b"old")),
        (("file", b"old"),),
    }


def test_files_and_folders_that_were_removed_may_be_there_again(tmp_path: Path) -> None:
    def make(folder: Path) -> Record:
        inner = folder / "inner"
        inner.mkdir()
        flushed = _flushed(_write(inner / "file"))
        os.link(inner / "file", folder.parent / "kept")
        (inner / "file").unlink()
        return Record(flushed, [Change("os.remove", inner.stat().st_ino, "file", kept=str(folder.parent / "kept"))])

    found = set()
    for seed in range(SEEDS):
        here = tmp_path / str(seed) / "here"
        here.mkdir(parents=True)
        cut_power(here, make(here), Random(seed))
        found.add((here / "inner" / "file").exists())
    assert found == {True, False}

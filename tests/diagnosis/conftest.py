"""Packages that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WriteModule = Callable[[str, str], Path]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Writes a module that new processes find before any other of its name."""
    folder = tmp_path / "first on the path"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, code: str) -> Path:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
        return folder

    return write

"""Pulled weights lie where the system keeps what can be fetched again, or where one variable says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import weights
from pipelines.checkpoints.cache import cache_folder, is_pulled, pulled_path
from pipelines.errors import ConfigError


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"DEEPFAKE_CACHE": "/data/cache", "XDG_CACHE_HOME": "/xdg"}, "/data/cache"),
        ("linux", {"DEEPFAKE_CACHE": "~/mine"}, "/home/me/mine"),
        ("linux", {"DEEPFAKE_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, "/xdg/deepfake"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/deepfake"),
        ("linux", {}, "/home/me/.cache/deepfake"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/deepfake"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/deepfake"),
        ("win32", {}, "/home/me/AppData/Local/deepfake"),
    ],
)
def test_the_cache_is_where_the_system_keeps_such_files(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    for name in ("DEEPFAKE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
    entry = weights.REGISTRY["retinaface-resnet50-official"]
    assert pulled_path(entry) == Path(expected) / "weights" / "retinaface-resnet50-official.zip"


def test_without_a_home_folder_the_variable_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("DEEPFAKE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(ConfigError, match="name a folder in DEEPFAKE_CACHE"):
        cache_folder()


def test_a_file_is_pulled_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_CACHE", str(tmp_path))
    assert [entry.name for entry in weights.REGISTRY.values() if is_pulled(entry)] == []
    (tmp_path / "weights").mkdir()
    for name in weights.REGISTRY:
        (tmp_path / "weights" / f"{name}.zip").touch()
    assert [entry.name for entry in weights.REGISTRY.values() if is_pulled(entry)] == ["retinaface-resnet50-official"]

"""The cache folder of pulled weights, and the name of each file in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pipelines.errors import ConfigError
from weights import WeightsEntry

CACHE_VARIABLE = "DEEPFAKE_CACHE"


def cache_folder() -> Path:
    """The folder named by `DEEPFAKE_CACHE`, else `deepfake` in the system's cache folder.

    Raises:
        ConfigError: there is neither the variable nor a home folder.
    """
    named = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(named).expanduser() if named else _system_cache_folder() / "deepfake"
    except RuntimeError as error:
        raise ConfigError(f"there is no home folder for pulled weights; name a folder in {CACHE_VARIABLE}") from error


def pulled_path(entry: WeightsEntry) -> Path | None:
    """The path of an entry's file once it is pulled; None if it has no URL."""
    if entry.url is None:
        return None
    return cache_folder() / "weights" / (entry.name + PurePosixPath(urlsplit(entry.url).path).suffix)


def is_pulled(entry: WeightsEntry) -> bool:
    """Whether the file exists; its digest is not checked."""
    path = pulled_path(entry)
    return path is not None and path.is_file()


def _system_cache_folder() -> Path:
    if sys.platform == "win32":
        named, usual = os.environ.get("LOCALAPPDATA", ""), ("AppData", "Local")
    elif sys.platform == "darwin":
        named, usual = "", ("Library", "Caches")
    else:
        named, usual = os.environ.get("XDG_CACHE_HOME", ""), (".cache",)
    return Path(named) if os.path.isabs(named) else Path.home().joinpath(*usual)

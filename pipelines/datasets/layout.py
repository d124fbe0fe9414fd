"""Finding and reading what a data set's folder holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import DatasetError


def find_folder(root: Path, *names: str) -> Path | None:
    """The folder below `root` along these names, whatever their case; None if it is not there."""
    folder = root
    for name in names:
        children = {child.name.casefold(): child for child in sorted(folder.iterdir()) if child.is_dir()}
        found = children.get(name.casefold())
        if found is None:
            return None
        folder = found
    return folder


def videos_in(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Files with a known video suffix, sorted; hidden ones (such as `._clip.mp4` from other systems) are passed over."""
    from pipelines.video import KNOWN_VIDEO_SUFFIXES

    paths = _walk(folder) if recursive else (Path(entry) for entry in os.scandir(folder) if entry.is_file())
    return sorted(path for path in paths if path.suffix.lower() in KNOWN_VIDEO_SUFFIXES and path.name[0] != ".")


def absolute(path: Path) -> str:
    """The path of a row: valid from everywhere, symbolic links kept."""
    return Path(os.path.abspath(path)).as_posix()


def read_json(path: Path) -> Any:
    """A list or table that came with the data set.

    Raises:
        DatasetError: it can not be read.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DatasetError(f"{path} is not readable JSON ({error}); get it again from the data set's page") from error


def read_lines(path: Path) -> list[str]:
    """The lines that are not empty, stripped.

    Raises:
        DatasetError: it can not be read.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DatasetError: it can not be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} can not be read ({error}); get it again from the data set's page") from error


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / name for name in files)

"""Find and read what a data set's folder holds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipelines.datasets.dataset import Mismatch
from pipelines.errors import DatasetError
from pipelines.records import SPLITS, Split, VideoRow
from pipelines.workspace.scan import walk

EXAMPLES = 3


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
    """Files with a known video suffix, sorted; hidden ones (such as `._clip.mp4` from other systems) are skipped."""
    from pipelines.video import KNOWN_VIDEO_SUFFIXES

    if recursive:
        paths = (parent / name for parent, names in walk(folder) for name in names)
    else:
        paths = (Path(entry) for entry in os.scandir(folder) if entry.is_file())
    return sorted(path for path in paths if path.suffix.lower() in KNOWN_VIDEO_SUFFIXES and path.name[0] != ".")


def absolute(path: Path) -> str:
    """The path of a row: valid from everywhere, symbolic links kept."""
    return Path(os.path.abspath(path)).as_posix()


def read_json(path: Path) -> Any:
    """A list or table that came with the data set.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DatasetError(f"{path} is not readable JSON ({error}); get it again from the data set's page") from error


def read_lines(path: Path) -> list[str]:
    """The lines that are not empty, stripped.

    Raises:
        DatasetError: it cannot be read.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); get it again from the data set's page") from error


def no_layout(root: Path, dataset: str, looked_for: str) -> DatasetError:
    """The error for a root that does not hold the data set, or is not a folder."""
    cause = f"{root} holds no {looked_for}" if root.is_dir() else f"{root} is not a folder"
    return DatasetError(f"{cause}; to see the expected layout, run: deepfake index {dataset} --download-help")


def not_there(where: str, names: Sequence[str], num_listed: int) -> list[Mismatch]:
    """One mismatch for all videos that a list names and its folder lacks, none if it lacks none."""
    if not names:
        return []
    message = f"{len(names)} of {num_listed} listed videos are missing: {name_some(names)}; download them again"
    return [Mismatch("missing", where, message)]


def not_listed(where: str, names: Sequence[str]) -> list[Mismatch]:
    """One mismatch for all videos of a folder that its list does not name, none if it names them all."""
    if not names:
        return []
    return [Mismatch("unlisted", where, f"skipped {count(names)} not in any list: {name_some(names)}")]


def keep_first(rows: Iterable[VideoRow], root: Path) -> tuple[list[VideoRow], list[Mismatch]]:
    """The rows in the order of their keys; of several files with one key (`a.mp4`, `videos/a.mp4`) only the first."""
    kept: dict[str, VideoRow] = {}
    repeated = [row.path for row in rows if kept.setdefault(row.video_key, row) is not row]
    videos = [kept[key] for key in sorted(kept)]
    if not repeated:
        return videos, []
    names = [Path(os.path.relpath(path, root)).as_posix() for path in repeated]
    message = f"skipped {count(names)} that exist twice under one name: {name_some(names)}; keep one of each"
    return videos, [Mismatch("layout", ".", message)]


def count(names: Sequence[str]) -> str:
    """`1 video`, `2 videos`."""
    return f"{len(names)} video{'' if len(names) == 1 else 's'}"


def name_some(names: Sequence[str]) -> str:
    """A few of the names, for a message."""
    rest = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + rest


def find_base(root: Path, *layouts: Sequence[str]) -> Path | None:
    """The folder that holds one of these paths of folders: `root`, or the one folder in it that does; None without one.

    Raises:
        DatasetError: several folders in it do.
    """

    def is_base(folder: Path) -> bool:
        return any(find_folder(folder, *names) for names in layouts)

    if not root.is_dir():
        return None
    if is_base(root):
        return root
    # Folders such as lost+found are not readable.
    children = (child for child in root.iterdir() if child.is_dir() and os.access(child, os.R_OK | os.X_OK))
    found = sorted(filter(is_base, children))
    if len(found) > 1:
        names = name_some([folder.name for folder in found])
        raise DatasetError(f"{root} holds several folders that are laid out so: {names}; give one of them")
    return found[0] if found else None


def compare_with_list(where: str, *, found: Iterable[str], listed: Iterable[str]) -> list[Mismatch]:
    """Mismatches: listed videos missing from the folder `where`, and videos without a split because no list names them."""
    names, there = set(listed), set(found)
    mismatches = not_there(where, sorted(names - there), len(names))
    if unlisted := sorted(there - names):
        mismatches.append(Mismatch("unlisted", where, f"in no list, so without a split: {name_some(unlisted)}"))
    return mismatches


def folders_in(folder: Path) -> list[Path]:
    """The folders in it, sorted, without hidden and unreadable ones (such as lost+found)."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()]
    return [folder / name for name in sorted(names) if os.access(folder / name, os.R_OK | os.X_OK)]


def videos_by_stem(
    folder: Path, *, names: re.Pattern[str], example: str, root: Path
) -> tuple[dict[str, Path], list[Mismatch]]:
    """The videos of a folder by the stem of their name, and mismatches for skipped files.

    Args:
        names: what a whole stem has to match.
        example: a file name that does.
        root: what the mismatches are relative to.
    """
    videos: dict[str, Path] = {}
    odd, repeated = [], []
    for path in videos_in(folder):
        if not names.fullmatch(path.stem):
            odd.append(path.name)
        elif videos.setdefault(path.stem, path) != path:
            repeated.append(path.name)
    causes = {
        f"a name has to be like {example}": odd,
        "the same name is there with another suffix; remove one of the two": repeated,
    }
    where = folder.relative_to(root).as_posix()
    passed_over = {cause: name_some(paths) for cause, paths in causes.items() if paths}
    return videos, [Mismatch("layout", where, f"skipped {some}: {cause}") for cause, some in passed_over.items()]


def find_split_lists(folders: Iterable[Path | None], suffix: str) -> dict[Split, Path] | None:
    """Lists named after the splits, in the first of the folders that has any; None without one.

    Raises:
        DatasetError: only some of them are there.
    """
    for folder in filter(None, folders):
        lists = {split: folder / f"{split}{suffix}" for split in SPLITS}
        missing = [path for path in lists.values() if not path.is_file()]
        if 0 < len(missing) < len(lists):
            raise DatasetError(
                f"{missing[0]} is missing, but other split lists are there; put all of them into that folder"
            )
        if not missing:
            return lists
    return None

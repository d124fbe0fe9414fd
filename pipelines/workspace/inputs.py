"""From what a user names (files, folders, lists) to the videos of a run, each with digest, key and label."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from pipelines.errors import ConfigError, DatasetError
from pipelines.records import LABELS, SPLITS, VideoRow, table_to_rows
from pipelines.system.atomic_files import storage_error
from pipelines.system.file_digest import file_digest
from pipelines.workspace.labels import VideoLabel, label_and_split_in, read_labels
from pipelines.workspace.manifest import read_table
from pipelines.workspace.scan import scan_folder

log = logging.getLogger(__name__)
LIST_SUFFIX = ".txt"
MANIFEST_SUFFIX = ".parquet"


@dataclass(frozen=True)
class InputFile:
    """A file that gets a row."""

    path: Path
    name: str
    """Relative to the named folder, or the file's own name; with slashes."""
    folder_name: str = ""
    """Name of the named folder, or of the folders that contain a named file, as far up as they are called `real`, `fake`,
    `train`, `val` or `test`."""
    listed: VideoRow | None = None
    """Its row in the videos manifest that names it, with key and label."""


@dataclass(frozen=True)
class FoundInputs:
    """The files of a run, in a fixed order, and how many others are in their folders."""

    files: list[InputFile]
    num_ignored: int


def find_inputs(
    named: str | Path | Iterable[str | Path], *, workspace: str | Path | None = None, splits: Sequence[str] = ()
) -> FoundInputs:
    """The named files, and the videos and images in named folders and their subfolders.

    A named file gets a row whatever it is; `scan_folder` says what is taken from a folder. A `.txt` file is a list of
    inputs, one path per line. A `.parquet` file is a videos manifest written by `index`; with `splits`, only its videos of
    those splits are taken.

    Args:
        workspace: of this run; what it contains is not an input.

    Raises:
        ConfigError: nothing was found, or splits are wanted of inputs that have none or do not exist.
    """
    files: dict[Path, InputFile] = {}
    num_ignored = 0
    for path in map(Path, _expand_lists([named] if isinstance(named, (str, Path)) else named)):
        if path.suffix.lower() == MANIFEST_SUFFIX and path.is_file():
            for row in _read_listed(path, splits):
                files[Path(row.path)] = InputFile(Path(row.path), f"{row.video_key}{Path(row.path).suffix}", listed=row)
            continue
        if splits:
            if not os.path.exists(path):  # False for an impossible name too
                raise ConfigError(f"{path} does not exist; check the path")
            raise ConfigError(f"{path} has no splits to choose from; name a videos manifest made by: deepfake index")
        if not _is_folder(path):
            files.setdefault(path, InputFile(path, path.name, _folder_names(path.parent, 2)))
            continue
        found, others = scan_folder(path, Path(workspace) if workspace else None)
        folder_name = f"{path.resolve().name}/{_folder_names(path, 1)}"  # of a link: the target's name and its own
        for file in found:
            name = path.name if file == path else file.relative_to(path).as_posix()
            files.setdefault(file, InputFile(file, name, folder_name))
        num_ignored += others
    if not files:
        raise ConfigError("no videos found; pass video files or folders that hold some")
    return FoundInputs(list(files.values()), num_ignored)


def describe_inputs(
    files: Sequence[InputFile],
    *,
    labels: str | Path | None = None,
    with_labels: bool = True,
    digest_of: Callable[[Path], str] = file_digest,
) -> list[VideoRow]:
    """One row per input; its `status` is unreadable if the file cannot be read.

    Labels come from the CSV, else from folders named `real` and `fake` (and `train`, `val`, `test`).

    Args:
        with_labels: whether labels are wanted at all; without them, copies in `real` and `fake` do not conflict.

    Raises:
        DatasetError: labels that contradict each other, also between copies of one content.
    """
    found: list[VideoLabel | None] = [VideoLabel.of(file.listed) if file.listed else None for file in files]
    if not with_labels:
        found = [None] * len(files)
    elif labels:
        label_of = read_labels(Path(labels), {file.path: file.name for file in files})
        found = [_complete(label_of.get(file.path), known) for file, known in zip(files, found, strict=True)]
    else:
        found = [known or _label_from_folders(file) for file, known in zip(files, found, strict=True)]
    keys = make_video_keys(files)
    rows = [_describe(*entry, digest_of) for entry in zip(files, keys, found, strict=True)]
    if with_labels:
        _check_copies(rows)
    return sorted(rows, key=lambda row: row.path)


def make_video_keys(files: Sequence[InputFile]) -> list[str]:
    """A short unique name for each input: its relative path without suffix, made longer only if two would be equal.

    An input listed in a manifest keeps its key from there, if that is unique.
    """
    candidates = [
        [file.listed.video_key if file.listed else PurePath(file.name).with_suffix("").as_posix() for file in files],
        [file.name for file in files],
        [file.path.as_posix() for file in files],
    ]
    keys = candidates[0]
    for longer in candidates[1:]:
        counts = Counter(keys)
        keys = [more if counts[key] > 1 else key for key, more in zip(keys, longer, strict=True)]
    return keys if len(set(keys)) == len(keys) else candidates[-1]


@dataclass
class DigestCache:
    """Digests of files hashed before, trusted as long as path, size and modification time are unchanged."""

    path: Path
    verify: bool = False
    also: Path | None = None
    """Another cache to read; it may be missing."""
    _known: dict[tuple[str, int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verify:
            return
        for path in (self.also, self.path):
            for line in path.read_text("utf-8", errors="replace").splitlines() if path and path.is_file() else ():
                try:
                    entry = json.loads(line)
                    self._known[entry["path"], entry["size"], entry["mtime_ns"]] = entry["sha256"]
                except (ValueError, KeyError, TypeError):
                    log.debug("%s: a torn line is ignored", path)

    def digest_of(self, path: Path) -> str:
        """SHA-256 of the file."""
        key = _identify(path)
        if key not in self._known:
            self._known[key] = file_digest(path)
            entry = {"path": key[0], "size": key[1], "mtime_ns": key[2], "sha256": self._known[key]}
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError as error:  # or it would look like an input that cannot be read
                raise storage_error(error, self.path) from error
        return self._known[key]

    def known_digest(self, path: Path) -> str | None:
        """SHA-256 of the file if it was hashed before, without hashing it now."""
        try:
            return self._known.get(_identify(path)) if self._known else None
        except (OSError, ValueError):  # missing, or an impossible name
            return None


def _identify(path: Path) -> tuple[str, int, int]:
    """What stays the same as long as a file is not written to."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _expand_lists(named: Iterable[str | Path]) -> Iterator[str | Path]:
    for entry in named:
        path = Path(entry)
        if path.suffix.lower() != LIST_SUFFIX or not path.is_file():
            yield entry
            continue
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not a readable list of paths: {error}") from error
        yield from (line.strip() for line in lines if line.strip())


def _read_listed(manifest: Path, splits: Sequence[str]) -> list[VideoRow]:
    rows: list[VideoRow] = table_to_rows(read_table(manifest, VideoRow), VideoRow)
    chosen = [row for row in rows if not splits or row.split in splits]
    if not chosen:
        there = ", ".join(sorted({row.split for row in rows if row.split})) or "none"
        raise ConfigError(f"{manifest} lists no video of the split {' or '.join(splits)}; it has the splits: {there}")
    folder = next((row.path for row in chosen if _is_folder(Path(row.path))), None)
    if folder is not None:
        raise ConfigError(
            f"{manifest} lists folders of cropped faces, such as {folder}, not videos; "
            f"run: deepfake import-faces {manifest} -w WORKSPACE"
        )
    return chosen


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # an impossible name; its row says so
        return False


def _folder_names(folder: Path, depth: int) -> str:
    """The last `depth` folders of the path, and those above as long as each is named after a label or split."""
    parts = Path(os.path.abspath(folder)).parts
    while depth < len(parts) and parts[-depth].lower() in (*LABELS, *SPLITS):
        depth += 1
    return "/".join(parts[-depth:])


def _complete(said: VideoLabel | None, known: VideoLabel | None) -> VideoLabel | None:
    """What a labels file says, completed from the manifest."""
    if said is None or known is None:
        return said or known
    return replace(known, **{name: value for name, value in vars(said).items() if value is not None})


def _label_from_folders(file: InputFile) -> VideoLabel | None:
    label, split = label_and_split_in(PurePath(file.folder_name) / PurePath(file.name).parent)
    return None if label is None else VideoLabel(label, split)


def _describe(file: InputFile, key: str, label: VideoLabel | None, digest_of: Callable[[Path], str]) -> VideoRow:
    row = VideoRow(video_id="", sha256="", video_key=key, path=file.path.as_posix())
    if label is not None:
        row = replace(row, **vars(label))
    try:
        if file.path.is_dir():
            os.scandir(file.path).close()  # a folder is an input only if this fails
        if file.path.exists() and not file.path.is_file():  # a pipe or a device would never end
            reason = f"{file.path.name} is not a regular file; pass a video file"
            return replace(row, status="unreadable", error=reason)
        sha256 = digest_of(file.path)
    except FileNotFoundError:
        return replace(row, status="unreadable", error=f"{file.path.name} does not exist; check the path")
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        reason = f"{file.path.name} cannot be read: {cause}; check its name and permissions"
        return replace(row, status="unreadable", error=reason)
    return replace(row, video_id=sha256[:16], sha256=sha256)


def _check_copies(rows: Iterable[VideoRow]) -> None:
    seen: dict[str, VideoRow] = {}
    for row in rows:
        first = seen.setdefault(row.sha256, row)
        if row.sha256 and row.label != first.label:
            raise DatasetError(
                f"{first.path} and {row.path} are the same video, labelled {first.label} and {row.label}; correct one label"
            )

"""Readers of face crops: a Parquet file, a CSV list, a folder with real/ and fake/, or an indexed data set."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import DatasetError
from pipelines.records import VideoRow, table_to_rows
from pipelines.system.csv_text import read_lines
from pipelines.system.image_header import MAX_IMAGE_BYTES
from pipelines.video import KNOWN_IMAGE_SUFFIXES
from pipelines.workspace.labels import LABEL_FIELDS, VideoLabel, label_and_split_in, to_label
from pipelines.workspace.manifest import read_table

IMAGE_COLUMNS = ("image", "image_jpeg")
MASK_COLUMN = "mask"
"""Holds pictures (bytes in a Parquet file, paths of pictures in a CSV), or, as in any list of videos, a video's path."""


@dataclass(frozen=True)
class SourceFace:
    """One face crop."""

    name: str
    """Unique within the source; the `path` of its row."""
    read: Callable[[], bytes]
    """Returns the encoded picture."""
    video: str | None
    """The source's name for the video; None makes the crop a separate video."""
    about: VideoLabel
    read_mask: Callable[[], bytes] | None = None
    """Returns the encoded picture of the manipulated region; None if there is none, and for a real face."""


def read_source(source: Path) -> Iterator[SourceFace]:
    """The face crops of a source, in order.

    Raises:
        DatasetError: missing, none of the four kinds, or labels other than `real` and `fake`.
    """
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise DatasetError(f"{source} does not exist; pass a Parquet file, a CSV or a folder with real/ and fake/")
    if source.suffix == ".csv":
        return _read_csv(source)
    if source.suffix == ".parquet":
        return _read_parquet(source)
    raise DatasetError(
        f"{source} is not a collection of faces; pass a .parquet, a .csv or a folder with real/ and fake/"
    )


def digest_of_pictures(pictures: Iterable[bytes]) -> str:
    """The digest of a video of encoded pictures: the SHA-256 of a single one, or of the digests of several in order."""
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_parquet(source: Path) -> Iterator[SourceFace]:
    try:
        file = pq.ParquetFile(source, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{source} is not a readable Parquet file: {error}") from error
    image_column = next((name for name in IMAGE_COLUMNS if name in file.schema_arrow.names), None)
    if image_column is None and {"video_key", "path"} <= set(file.schema_arrow.names):
        yield from _read_indexed(source)
        return
    if image_column is None:
        raise DatasetError(f"{source} has no column 'image' or 'image_jpeg' with encoded pictures")
    kind = file.schema_arrow.field(image_column).type
    if not _is_bytes(kind):
        raise DatasetError(
            f"{source}: the column {image_column!r} holds {kind}; it must hold encoded pictures as bytes"
        )
    given = [name for name in ("video", *LABEL_FIELDS) if name in file.schema_arrow.names]
    has_masks = MASK_COLUMN in given and _is_bytes(file.schema_arrow.field(MASK_COLUMN).type)
    for name in given:
        kind = file.schema_arrow.field(name).type
        if not _is_plain(kind) and not (name == MASK_COLUMN and has_masks):
            pictures = ", or encoded pictures as bytes" if name == MASK_COLUMN else ""
            raise DatasetError(f"{source}: the column {name!r} holds {kind}; it must hold text or numbers{pictures}")
    for number, record in enumerate(_read_records(file, [image_column, *given], source)):
        data = record.pop(image_column) or b""
        mask = record.pop(MASK_COLUMN) if has_masks else None
        read_mask = None if mask is None else partial(bytes, mask)
        yield _make_face(f"{source.name}#{number}", partial(bytes, data), record, read_mask)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column holds text, numbers or only nulls."""
    kind, types = kind.value_type if pa.types.is_dictionary(kind) else kind, pa.types
    kinds = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_integer,
        types.is_floating,
        types.is_null,
    )
    return any(is_kind(kind) for is_kind in kinds)


def _read_records(file: pq.ParquetFile, columns: list[str], source: Path) -> Iterator[dict[str, Any]]:
    for group in range(file.num_row_groups):
        try:
            records = file.read_row_group(group, columns=columns).to_pylist()
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise DatasetError(f"{source} is not a whole Parquet file ({error}); get it again") from error
        yield from records


def _read_csv(source: Path) -> Iterator[SourceFace]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(read_lines(file))
            fields, records = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{source} is not a readable CSV file ({error}); save it as CSV in UTF-8") from error
    missing = {"path", "label"} - set(fields)
    if missing:
        raise DatasetError(
            f"{source} lacks the column {sorted(missing)[0]!r}; it needs path,label[,video,{','.join(LABEL_FIELDS[1:])}]"
        )
    for number, record in enumerate(records, start=2):
        name = record["path"]
        if not name:
            raise DatasetError(f"{source} line {number} names no path; complete or remove the line")
        mask, read_mask = record.get(MASK_COLUMN) or "", None
        if PurePath(mask).suffix.lower() in KNOWN_IMAGE_SUFFIXES:
            del record[MASK_COLUMN]
            read_mask = _reader_of(source.parent / mask)
        record["video"] = record.get("video") or name
        yield _make_face(name, _reader_of(source.parent / name), record, read_mask)


def _read_folder(source: Path) -> Iterator[SourceFace]:
    found = False
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        label, split = label_and_split_in(relative.parent)
        if label is None or path.suffix.lower() not in KNOWN_IMAGE_SUFFIXES:
            continue
        found = True
        name = relative.as_posix()
        yield _make_face(name, _reader_of(path), {"label": label, "split": split, "video": name})
    if not found:
        raise DatasetError(
            f"{source} holds no pictures under real/ or fake/; sort them so, or pass a CSV with path,label"
        )


def _read_indexed(manifest: Path) -> Iterator[SourceFace]:
    """The sequences of a data set of face crops: one folder of pictures per video."""
    for row in table_to_rows(read_table(manifest, VideoRow), VideoRow):
        folder = Path(row.path)
        if folder.is_file():
            raise DatasetError(
                f"{manifest} lists videos, such as {folder.name}, not faces that are cropped already; "
                f"run: deepfake extract-frames {manifest} -w WORKSPACE"
            )
        names = sorted(path.name for path in _files_in(folder) if path.suffix.lower() in KNOWN_IMAGE_SUFFIXES)
        for name in names or [""]:  # a sequence without pictures gets a row, too
            yield SourceFace(f"{row.video_key}/{name}", _reader_of(folder / name), row.video_key, VideoLabel.of(row))


def _files_in(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _reader_of(path: Path) -> Callable[[], bytes]:
    return partial(_read_picture, path)


def _read_picture(path: Path) -> bytes:
    try:
        # reading a pipe or device would never end, and a file of many gigabytes is not a picture
        is_picture = path.is_file() and path.stat().st_size <= MAX_IMAGE_BYTES
        return path.read_bytes() if is_picture else b""
    except (OSError, ValueError):  # missing, unreadable or an impossible name: reported in its row
        return b""


def _make_face(
    name: str, read: Callable[[], bytes], record: Mapping[str, Any], read_mask: Callable[[], bytes] | None = None
) -> SourceFace:
    video, about = record.get("video"), to_label(record, name)
    read_mask = None if about.label == "real" else read_mask
    return SourceFace(name, read, None if video in (None, "") else str(video), about, read_mask)

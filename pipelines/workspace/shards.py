"""What a sharded run leaves for `merge`: its rows, where they stand among all inputs, and which inputs those were."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from pipelines.config import RunOptions, Shard
from pipelines.errors import ConfigError, ManifestError
from pipelines.records import VideoRow, rows_to_table, table_to_rows
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.manifest import (
    Provenance,
    digest_json,
    note_in,
    provenance_in,
    read_metadata,
    read_table,
    write_table,
)

log = logging.getLogger(__name__)
Row = TypeVar("Row")
POSITION = "position"
"""Column of a shard's file, beside those of `videos.parquet`."""


@dataclass(frozen=True)
class Share:
    """What a shard has of all inputs."""

    shard: Shard
    inputs_sha256: str
    """Digest of all inputs, those of the other shards too."""
    num_inputs: int
    positions: tuple[int, ...]
    """Of the shard's inputs among all, from 0."""

    @classmethod
    def of(cls, shard: Shard, videos: Sequence[VideoRow]) -> Share:
        """The shard's share of all `videos`."""
        positions = tuple(position for position, video in enumerate(videos) if shard.holds(video))
        return cls(shard, digest_json([vars(video) for video in videos]), len(videos), positions)


def select_videos(videos: Sequence[VideoRow], shard: Shard | None) -> list[VideoRow]:
    """Those that this run works on; all without a shard."""
    return [video for video in videos if shard is None or shard.holds(video)]


def name_missing(shards: Iterable[Shard], count: int) -> list[Shard]:
    """What is not among the shards of `count`."""
    there = set(shards)
    return [shard for shard in (Shard(index, count) for index in range(1, count + 1)) if shard not in there]


def join_rows(parts: Sequence[tuple[Share, Sequence[Row]]]) -> list[Row]:
    """The rows of all shards, in the order of all inputs.

    Raises:
        ManifestError: the shards were given different inputs.
    """
    first = parts[0][0]
    for share, _ in parts:
        if share.inputs_sha256 != first.inputs_sha256:
            raise ManifestError(
                f"the shards {first.shard} and {share.shard} were given different inputs "
                f"({first.num_inputs} and {share.num_inputs} videos, compared with contents and labels); "
                "run every shard again with the same ones: what is finished is kept"
            )
    by_position = {position: row for share, rows in parts for position, row in zip(share.positions, rows, strict=True)}
    if sorted(by_position) != list(range(first.num_inputs)) or len(by_position) != sum(len(rows) for _, rows in parts):
        raise ManifestError("the shards do not hold every input once; was a file renamed? run every shard again")
    return [by_position[position] for position in range(first.num_inputs)]


@dataclass(frozen=True)
class StageShard:
    """A finished shard of a stage."""

    share: Share
    rows: list[VideoRow]
    provenance: Provenance


def refuse_overwrite(options: RunOptions, folder: Path) -> None:
    """One shard can not discard its stage: the others may be at work there."""
    if options.shard and options.overwrite:
        raise ConfigError(
            "--overwrite with --shard would discard what the other shards have made; "
            f"remove {folder} once, then run every shard without it"
        )


def write_shard(
    folder: StageFolder, provenance: Provenance, shard: Shard, rows: Sequence[VideoRow], videos: Sequence[VideoRow]
) -> None:
    """Write what became of the shard's videos.

    Args:
        rows: one for each of `select_videos(videos, shard)`.
        videos: all that the stage was given.
    """
    share = Share.of(shard, videos)
    table = rows_to_table(rows, VideoRow).append_column(POSITION, pa.array(share.positions, pa.int64()))
    notes = {"inputs_sha256": share.inputs_sha256, "num_inputs": str(share.num_inputs)}
    write_table(table, folder.shard_path(shard), provenance, notes=notes)


def read_all_shards(folder: StageFolder) -> list[StageShard]:
    """Every shard of the one n of which all are there, in order.

    Raises:
        ManifestError: some are missing, or there are two such n.
    """
    found: dict[int, dict[Shard, StageShard]] = {}
    for shard, content in _read_shards(folder):
        found.setdefault(shard.count, {})[shard] = content
    missing = {count: name_missing(shards, count) for count, shards in sorted(found.items())}
    whole = [count for count in missing if not missing[count]]
    if not whole:
        raise ManifestError(_describe_missing(folder, missing))
    if len(whole) > 1:
        raise ManifestError(
            f"{folder.shards_folder} holds all shards of {' and all of '.join(map(str, whole))}; "
            f"remove those that are out of date, such as *-of-{whole[0]}.parquet"
        )
    return [found[whole[0]][Shard(index, whole[0])] for index in range(1, whole[0] + 1)]


def command_for(folder: StageFolder, shard: Shard | str) -> str:
    """What a person types to make the shard."""
    return f"deepfake {folder.stage} … -w {folder.root.parent} --shard {shard}"


def _describe_missing(folder: StageFolder, missing: dict[int, list[Shard]]) -> str:
    if not missing:
        finished = " and is finished without them" if folder.manifest_path.is_file() else ""
        return f"{folder.root} has no shards{finished}; make each with: {command_for(folder, 'i/n')}"
    fewest = min(missing.values(), key=len)
    lost = "; ".join(f"of {count} shards it lacks {', '.join(map(str, shards))}" for count, shards in missing.items())
    others = f", then with {' and '.join(map(str, fewest[1:]))}" if len(fewest) > 1 else ""
    return f"{folder.root} can not be merged: {lost}; run: {command_for(folder, fewest[0])}{others}"


def _read_shards(folder: StageFolder) -> Iterator[tuple[Shard, StageShard]]:
    """Every whole file; a damaged one is as good as missing, for its shard makes it again."""
    for path in sorted(folder.shards_folder.glob("*.parquet")):
        name = re.fullmatch(r"([0-9]+)-of-([0-9]+)", path.stem)
        if not name:
            continue
        try:
            shard = Shard(int(name[1]), int(name[2]))
            yield shard, _read_shard(path, shard)
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is damaged and counts as missing: %s", path, error)


def _read_shard(path: Path, shard: Shard) -> StageShard:
    table, metadata = read_table(path, VideoRow, also=[POSITION]), read_metadata(path)
    positions = tuple(map(int, table.column(POSITION).to_pylist()))
    num_inputs, inputs_sha256 = int(note_in(metadata, "num_inputs") or ""), note_in(metadata, "inputs_sha256") or ""
    share = Share(shard, inputs_sha256, num_inputs, positions)
    return StageShard(share, table_to_rows(table, VideoRow), provenance_in(metadata, path))

"""Slice i of n of the inputs, for several GPUs or servers, and the order of the joined slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipelines.config import Shard
from pipelines.errors import ManifestError
from pipelines.records import VideoRow
from pipelines.workspace.manifest import digest_json

Row = TypeVar("Row")


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

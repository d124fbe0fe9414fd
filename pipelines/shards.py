"""A slice of a run's items, for several GPUs or servers that share the work. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.records import VideoRow

ID_DIGITS = 16


@dataclass(frozen=True)
class Shard:
    """Slice `index` of `count`, counted from 1."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(f"shard must be i/n with i from 1 to n, got {self}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/3`.

        Raises:
            ConfigError: anything else.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if not match:
            raise ConfigError(f"shard must be i/n, such as 2/3, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, video: VideoRow) -> bool:
        """Whether the video belongs here: by its id alone, so that other videos beside it change nothing.

        One that could not be read has no id and goes by its key.
        """
        digits = video.video_id or _digest_key(video.video_key)
        return int(digits, 16) % self.count == self.index - 1


def _digest_key(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:ID_DIGITS]

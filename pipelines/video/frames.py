"""The chosen frames of one file, one after another: what `extract-frames` writes and `predict` scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import InputError, UnreadableError
from pipelines.video.containers import shown_name
from pipelines.video.reader import Frame, VideoReader
from pipelines.video.sampling import select_frames


class ChosenFrames:
    """Iterates over N frames spread over a video, or at a rate; afterwards `note` says what was wrong with the file.

    Raises (while iterating):
        InputError: the span holds no frame.
        UnreadableError: none of the chosen frames decodes.
    """

    def __init__(
        self,
        reader: VideoReader,
        path: Path,
        *,
        count: int | None = None,
        rate_hz: float | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
    ) -> None:
        self.reader = reader
        self.path = path
        self.num_decoded = 0
        self.indices = select_frames(
            reader.timestamps,
            reader.info.time_base,
            count=count,
            rate_hz=rate_hz,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )

    def __iter__(self) -> Iterator[Frame]:
        if not len(self.indices):
            raise InputError(
                f"{shown_name(self.path)} has no frame between --start and --end; choose a span inside the video"
            )
        for frame in self.reader.frames(self.indices.tolist()):
            self.num_decoded += 1
            yield frame
        if not self.num_decoded:
            reason = f" ({self.note})" if self.note else ""
            raise UnreadableError(f"no frame of {shown_name(self.path)} decodes{reason}; copy it again from its source")

    @property
    def note(self) -> str | None:
        """A warning about the file, and how many of the chosen frames were lost; None for a sound file."""
        lost = len(self.indices) - self.num_decoded
        parts = [self.reader.warning] if self.reader.warning else []
        if lost:
            parts.append(f"{lost} of {len(self.indices)} chosen frames do not decode")
        return "; ".join(parts) or None

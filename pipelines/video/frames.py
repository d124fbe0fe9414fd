"""The sampled frames of one file: what `extract-frames` writes and `predict` scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import InputError, UnreadableError
from pipelines.video.containers import shown_name
from pipelines.video.reader import Frame, VideoReader
from pipelines.video.sampling import select_frames


class ChosenFrames:
    """Iterates over N frames spread over a video, or at a rate; afterwards `note` says what is wrong with the file.

    Raises (while iterating):
        InputError: no frame lies in the time span.
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
        """The warning about the file and the number of sampled frames that were lost; None for an intact file."""
        lost = len(self.indices) - self.num_decoded
        parts = [self.reader.warning] if self.reader.warning else []
        if lost:
            parts.append(f"{lost} of {len(self.indices)} sampled frames could not be decoded")
        return "; ".join(parts) or None

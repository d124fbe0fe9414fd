"""Compare free space with what a job on named inputs would write."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import ALIGNED_SIZE_PX, ExtractConfig
from pipelines.diagnosis.finding import Finding

BYTES_PER_PIXEL = 1.5
"""Of a PNG as `image_files` writes it: 0.2 to 0.9 on frames of compressed videos, 1.4 on the noisy example clip, 0.5 to 1.2
on aligned faces; measured on frames of eight clips of 480 to 1920 pixels."""
FACES_PER_FRAME = 1
"""A crowd has more, but its faces need little space compared with its frames."""
CROP_BYTES = ALIGNED_SIZE_PX * ALIGNED_SIZE_PX * BYTES_PER_PIXEL
LITTLE_BYTES = 1_000_000_000
PROBE_BYTES = 1_000_000


@dataclass(frozen=True)
class JobEstimate:
    """What `extract-frames` and `detect-faces` would write for some inputs."""

    num_videos: int
    num_unknown: int
    """Inputs that do not open."""
    num_frames: int
    frame_bytes: float
    crop_bytes: float

    @property
    def num_bytes(self) -> float:
        return self.frame_bytes + self.crop_bytes


def check_workspace(inputs: str | Path | Sequence[str | Path], workspace: str | Path | None) -> list[Finding]:
    """Free space where a workspace is or would be made; with inputs, against the estimate for them."""
    folder = _nearest_folder(Path(workspace or "."))
    free = shutil.disk_usage(folder).free
    there = f"{_gigabytes(free)} free in {folder}"
    if not os.access(folder, os.W_OK):
        return [Finding("disk", "broken", f"{folder} cannot be written", "correct its permissions, or give -w FOLDER")]
    if not inputs:
        if free < LITTLE_BYTES:
            return [Finding("disk", "note", f"only {there}", "name the inputs of a job to see what it needs")]
        return [Finding("disk", "ok", there)]
    estimate = estimate_job(inputs, workspace)
    needs = f"{there}; {count(estimate.num_frames, 'frame')} of {count(estimate.num_videos, 'video')} and their faces need about "
    message = needs + _gigabytes(estimate.num_bytes)
    if estimate.num_unknown:
        message += f" ({count(estimate.num_unknown, 'other input')} cannot be opened)"
    if estimate.num_bytes > free:
        return [Finding("disk", "broken", message, "free some space, or give -w FOLDER on another disk")]
    return [Finding("disk", "ok", message)]


def check_temporary() -> list[Finding]:
    """Whether there is a folder for temporary files in which one can be written."""
    remedy = "free some space, or set TMPDIR to a folder that can be written"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        return [Finding("temporary files", "broken", f"cannot be written: {error.strerror or error}", remedy)]
    return [Finding("temporary files", "ok", f"{_gigabytes(shutil.disk_usage(folder).free)} free in {folder}")]


def estimate_job(inputs: str | Path | Sequence[str | Path], workspace: str | Path | None = None) -> JobEstimate:
    """From the headers of all inputs; nothing is decoded.

    `ExtractConfig.frames` frames a video, or all where the header says that there are fewer.

    Raises:
        ConfigError: no videos were found.
    """
    from pipelines.errors import UnreadableError
    from pipelines.workspace.inputs import find_inputs

    files = find_inputs(inputs, workspace=workspace).files
    num_videos = num_frames = pixels = 0
    for file in files:
        try:
            frames, frame_pixels = _measure(file.path)
        except UnreadableError:
            continue
        num_videos += 1
        num_frames += frames
        pixels += frames * frame_pixels
    crop_bytes = num_frames * FACES_PER_FRAME * CROP_BYTES
    return JobEstimate(num_videos, len(files) - num_videos, num_frames, pixels * BYTES_PER_PIXEL, crop_bytes)


def _measure(path: Path) -> tuple[int, int]:
    """Frames that would be taken of a video or image, and pixels of each."""
    from pipelines.errors import UnreadableError
    from pipelines.system.image_header import is_image, read_image_size
    from pipelines.video.containers import open_container, pick_video_stream, read_head

    if is_image(read_head(path)):
        size = read_image_size(path.read_bytes())
        if size is None:
            raise UnreadableError(f"{path} has no size in its header; convert it to PNG")
        return 1, size[0] * size[1]
    with open_container(path) as container:
        stream = pick_video_stream(container, path)
        return min(ExtractConfig.frames, stream.frames or ExtractConfig.frames), stream.width * stream.height


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def count(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"

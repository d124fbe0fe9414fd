"""Masks of manipulated regions: the frames of a mask video, and from them a mask for each aligned face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.errors import InputError, UnreadableError
from pipelines.faces.align import align_mask
from pipelines.faces.crops import landmarks_of
from pipelines.records import FaceRow, FrameRow
from pipelines.system.image_files import WHITE, encode_image, to_mask
from pipelines.video import open_video
from pipelines.video.containers import shown_name
from pipelines.video.reader import VideoInfo

Mask = npt.NDArray[np.uint8]
CODING_NOISE = 32
"""Grey levels, out of 255, by which lossy compression may change black and white: closer values become 0 and 255."""


def make_face_masks(
    faces: Sequence[FaceRow], frames: Sequence[FrameRow], mask_video: Path, video: Path, *, margin: float
) -> dict[str, bytes]:
    """The PNG files of the masks of a video's faces, by the faces' `crop_path`, each aligned as its crop.

    Faces in frames whose mask does not decode are left out.

    Args:
        frames: of the same video, ascending; at least those of the faces.
        margin: that of the crops.

    Raises:
        InputError: the mask video is unreadable, or not one of this video; see `read_masks`.
    """
    by_frame: dict[int, list[FaceRow]] = {}
    for face in faces:
        by_frame.setdefault(face.frame_index, []).append(face)
    made: dict[str, bytes] = {}
    for index, mask in read_masks(mask_video, [row for row in frames if row.frame_index in by_frame], video):
        for face in by_frame[index]:
            aligned = align_mask(mask, landmarks_of(face), margin=margin)
            if aligned is not None:
                made[face.crop_path] = encode_image(aligned, ".png")
    return made


def read_masks(mask_video: Path, frames: Sequence[FrameRow], video: Path) -> Iterator[tuple[int, Mask]]:
    """The masks (H, W) uint8 of frames, with the frames' indices: 255 is manipulated, 0 is not, soft edges stay soft.

    The k-th frame of a mask video is the mask of the video's k-th frame, upright as it is shown. It may have another size
    at the same aspect ratio (the mask of the uncompressed video, say) and is then resized to the frame. A mask frame
    that does not decode is left out.

    Args:
        frames: one or more, in ascending order.
        video: the masked video; its frames are counted if it is still there and undamaged.

    Raises:
        InputError: the mask video is missing or unreadable, or has another aspect ratio or number of frames.
    """
    name = shown_name(mask_video)
    with open_video(mask_video) as reader:
        _check_size(reader.info, frames[0], name)
        _check_length(reader.info.num_frames, frames[-1], video, name)
        size_of = {row.frame_index: (row.width_px, row.height_px) for row in frames}
        for frame in reader.frames(sorted(size_of)):
            yield frame.index, _clean(_resize(to_mask(frame.image), size_of[frame.index]))


def _check_size(info: VideoInfo, frame: FrameRow, name: str) -> None:
    """The shorter side may be off by one pixel, as rounding leaves it."""
    difference = abs(info.width_px * frame.height_px - info.height_px * frame.width_px)
    if difference > max(frame.width_px, frame.height_px):
        raise InputError(
            f"{name} has {info.width_px} x {info.height_px} pixels and the frames {frame.width_px} x {frame.height_px}, "
            "so it is not their mask; name the right one in the column mask"
        )


def _check_length(num_masks: int, last: FrameRow, video: Path, name: str) -> None:
    num_frames = _count_frames(video)
    if num_frames is None and num_masks <= last.frame_index:
        raise InputError(
            f"{name} has {num_masks} frames and lacks frame {last.frame_index}, so it is cut or another video's mask; copy it "
            "again, or name the right one in the column mask"
        )
    if num_frames is not None and num_masks != num_frames:
        raise InputError(
            f"{name} has {num_masks} frames and the video {num_frames}, so it is cut or another video's mask; copy it again, "
            "or name the right one in the column mask"
        )


def _count_frames(video: Path) -> int | None:
    """None if the video is no longer there, or damaged: then it may have lost frames that its mask still has."""
    try:
        with open_video(video) as reader:
            return None if reader.warning else reader.info.num_frames
    except UnreadableError:
        return None


def _resize(mask: Mask, size_px: tuple[int, int]) -> Mask:
    if mask.shape[::-1] == size_px:
        return mask
    shrinks = mask.shape[1] > size_px[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask, size_px, interpolation=interpolation), dtype=np.uint8)


def _clean(mask: Mask) -> Mask:
    """Stretch the levels in between, so that a soft edge keeps its middle."""
    levels = np.clip((np.arange(WHITE + 1) - CODING_NOISE) / (WHITE - 2 * CODING_NOISE), 0, 1)
    return np.asarray(cv2.LUT(mask, np.rint(levels * WHITE).astype(np.uint8)), dtype=np.uint8)

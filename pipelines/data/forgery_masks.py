"""Which pixels of a face are forged: from a stored mask, or from the difference between a fake and its original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.faces.align import template_points
from pipelines.records import VideoRow
from pipelines.system.image_files import Image

Mask = npt.NDArray[np.uint8]
"""(H, W): 255 forged, 0 genuine."""
FORGED = 255

SCALE = 0.5
"""Of the pictures that are registered and compared: faster, and blind to single pixels."""
FACE_RADII = 0.96, 1.29
"""Half axes of the ellipse that a face fills, in eye distances along x and y; its centre is the mean of the five points."""
HEAD_SCALE = 1.35
"""Of that ellipse: changes further out are not part of the forgery."""
REGISTRATION_STEPS, REGISTRATION_EPS, REGISTRATION_BLUR_PX = 40, 1e-4, 5
BLUR_SIGMA_PX = 2.5
MAX_RESIDUAL_LEVELS = 3.0
"""Median difference around the face up to which two crops count as the same picture."""
MIN_DIFFERENCE_LEVELS = 6.0
RESIDUAL_FACTOR = 4.0
"""A forged pixel differs by more than `MIN_DIFFERENCE_LEVELS` and this many times the median around the face."""
CLOSING_PX, OPENING_PX = 21, 3
MIN_SHARE = 0.02
"""Of the face ellipse; a smaller difference does not say what was forged."""


def difference_mask(fake: Image, original: Image, *, margin: float = 1.0) -> Mask | None:
    """The forged pixels of a fake, from the same frame of the video that it was made from.

    The two crops are registered outside the face, where a forgery changes nothing (an affine transform that maximises the
    enhanced correlation coefficient; Evangelidis and Psarakis, 2008). The blurred difference is thresholded; gaps within a
    changed region are closed, since a swapped face equals the original in places by chance.

    Args:
        fake, original: (S, S, 3) uint8, crops in the aligned frame.
        margin: of the aligned frame.

    Returns:
        (S, S) uint8, or None if the surroundings differ (another frame, or other crops) or the face hardly differs.
    """
    size = fake.shape[0]
    small = [_shrink(crop) for crop in (fake, original)]
    face = _draw_ellipse(small[0].shape[0], margin, 1.0)
    around = face == 0
    registered = _register(small[0], small[1], around)
    if registered is None:
        return None
    difference = np.abs(small[0].astype(np.float32) - registered).mean(axis=2)
    residual = float(np.median(difference[around]))
    if residual > MAX_RESIDUAL_LEVELS:
        return None
    smooth = np.asarray(cv2.GaussianBlur(difference, (0, 0), BLUR_SIGMA_PX))
    changed = smooth > max(MIN_DIFFERENCE_LEVELS, RESIDUAL_FACTOR * residual)
    changed &= _draw_ellipse(small[0].shape[0], margin, HEAD_SCALE) > 0
    region = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_OPEN, _disc(OPENING_PX))
    region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, _disc(CLOSING_PX), borderValue=0)
    if region.sum() < MIN_SHARE * face.sum():
        return None
    return np.asarray(cv2.resize(region * FORGED, (size, size), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def find_originals(videos: Sequence[VideoRow], faces: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For the crops of fakes, the crop that shows the same frame of the video that each was made from, where there is one.

    Of several faces in that frame, the one whose box lies nearest.

    Args:
        videos: all that may be a fake or an original.
        faces: rows with `video_id`, `frame_index`, `crop_path` and, if known, the box `x0_px` … `y1_px`.

    Returns:
        `crop_path` of the original by `crop_path` of the fake.
    """
    id_of_key = {video.video_key: video.video_id for video in videos if video.label == "real"}
    original_of = {
        video.video_id: id_of_key[video.original]
        for video in videos
        if video.label == "fake" and video.original in id_of_key
    }
    wanted = set(original_of.values())
    by_frame: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for face in faces:
        if face["video_id"] in wanted:
            by_frame.setdefault((face["video_id"], face["frame_index"]), []).append(face)
    found = {}
    for face in faces:
        candidates = by_frame.get((original_of.get(face["video_id"], ""), face["frame_index"]))
        if candidates:
            found[face["crop_path"]] = min(candidates, key=partial(_distance, face))["crop_path"]
    return found


def _distance(face: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Between the centres of two boxes of one frame, in pixels; 0 if one is unknown."""
    centers = [
        [(each[f"{axis}0_px"] + each[f"{axis}1_px"]) / 2 for axis in "xy"]
        for each in (face, other)
        if each.get("x0_px") is not None
    ]
    return math.dist(*centers) if len(centers) == 2 else 0.0


def _register(target: Image, source: Image, where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32] | None:
    """The source, moved onto the target by what both show at `where`; None if that finds no match."""
    grey = [np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.float32) for picture in (target, source)]
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, REGISTRATION_STEPS, REGISTRATION_EPS)
    transform = np.eye(2, 3, dtype=np.float32)
    seen = where.astype(np.uint8) * FORGED
    try:
        _, found = cv2.findTransformECC(
            grey[0], grey[1], transform, cv2.MOTION_AFFINE, stop, seen, REGISTRATION_BLUR_PX
        )
    except cv2.error:  # too little structure, or no convergence
        return None
    size = target.shape[1], target.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(source, np.asarray(found), size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, dtype=np.float32)


def _shrink(crop: Image) -> Image:
    return np.asarray(cv2.resize(crop, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw_ellipse(size: int, margin: float, scale: float) -> Mask:
    """(size, size) uint8, 1 inside the face."""
    points = template_points(margin, size)
    center, unit = points.mean(axis=0), float(points[1, 0] - points[0, 0])
    y, x = np.mgrid[:size, :size]
    distance = ((x - center[0]) / (FACE_RADII[0] * unit)) ** 2 + ((y - center[1]) / (FACE_RADII[1] * unit)) ** 2
    return np.asarray(distance < scale**2, dtype=np.uint8)


def _disc(size: int) -> Mask:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), dtype=np.uint8)

"""Five-point alignment: a similarity transform from a face's landmarks to a template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Border = Literal["black", "replicate"]
Points = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

TEMPLATE_SIZE_PX = 380
TEMPLATE: Points = np.array(
    [(145.469, 167.734), (234.531, 167.734), (190.0, 212.266), (163.281, 267.484), (216.719, 267.484)]
)
"""(5, 2): left eye, right eye, nose, left and right mouth corner (left in the image), in a 380x380 crop.

The template that the paper's first author published with an earlier detector, scaled from 320 to 380."""
SHRINK_BELOW = 0.7
"""Below this scale the source is area-averaged first; a smaller reduction would only lose sharpness."""
_BORDERS = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}


@dataclass(frozen=True)
class AlignedFace:
    """One face in the template's frame."""

    crop: Image
    """(size, size, 3) uint8 RGB."""
    landmarks: Points
    """(5, 2) in crop pixels."""
    valid_share: float
    """Share of the crop's area that lies inside the source picture, 0..1."""


def align_face(
    image: Image, landmarks: Points, *, margin: float = 1.0, size_px: int = TEMPLATE_SIZE_PX, border: Border = "black"
) -> AlignedFace | None:
    """Cut one face out of a picture, upright, with its landmarks where the template has them.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) in pixels of the image.
        margin: 1.0 is the template; 1.3 shows 1.3 times as much in each direction.
        border: what stands where the crop reaches over the picture's edge.

    Returns:
        The crop, or None for landmarks that all fall on one point.
    """
    transform = estimate_similarity(landmarks, template_points(margin, size_px))
    if transform is None:
        return None
    return AlignedFace(
        crop=_warp(image, transform, size_px, border),
        landmarks=apply_transform(transform, landmarks),
        valid_share=_share_inside(transform, size_px, image.shape[1], image.shape[0]),
    )


def align_mask(mask: Image, landmarks: Points, *, margin: float = 1.0, size_px: int = TEMPLATE_SIZE_PX) -> Image | None:
    """Cut a mask of a picture as `align_face` cuts the picture itself; over the picture's edge it is black.

    Args:
        mask: (H, W) uint8, as large as the picture.
        landmarks: (5, 2) in pixels of the picture.

    Returns:
        (size_px, size_px) uint8, or None for landmarks that all fall on one point.
    """
    transform = estimate_similarity(landmarks, template_points(margin, size_px))
    return None if transform is None else _warp(mask, transform, size_px, "black")


def template_points(margin: float = 1.0, size_px: int = TEMPLATE_SIZE_PX) -> Points:
    """The template (5, 2) in a crop of `size_px`, drawn together around the centre by `margin`."""
    center = TEMPLATE_SIZE_PX / 2
    return (center + (TEMPLATE - center) / margin) * (size_px / TEMPLATE_SIZE_PX)


def estimate_similarity(source: Points, target: Points) -> Points | None:
    """Least-squares rotation, uniform scale and shift (2, 3) from `source` to `target` points (K, 2); never a mirror.

    In complex numbers the fit is one division: target - mean = a (source - mean), a = scale * exp(i angle).
    """
    z, w = _as_complex(source), _as_complex(target)
    z_mean, w_mean = z.mean(), w.mean()
    spread = float((np.abs(z - z_mean) ** 2).sum())
    if not np.isfinite(spread) or spread < 1e-6:
        return None
    a = (np.conj(z - z_mean) * (w - w_mean)).sum() / spread
    if abs(a) < 1e-6:
        return None
    b = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def apply_transform(transform: Points, points: Points) -> Points:
    """Points (K, 2) under a (2, 3) transform."""
    return np.asarray(points, dtype=np.float64) @ transform[:, :2].T + transform[:, 2]


def _as_complex(points: Points) -> npt.NDArray[np.complex128]:
    points = np.asarray(points, dtype=np.float64)
    return points[:, 0] + 1j * points[:, 1]


def _warp(image: Image, transform: Points, size_px: int, border: Border) -> Image:
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < SHRINK_BELOW:  # bilinear sampling would skip source pixels: average them first
        image, transform = _shrink_region(image, transform, size_px, 1 / scale)
    warped = cv2.warpAffine(image, transform, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=_BORDERS[border])
    return np.asarray(warped, dtype=np.uint8)


def _shrink_region(image: Image, transform: Points, size_px: int, factor: float) -> tuple[Image, Points]:
    """The region that the crop shows, `factor` times smaller, and the transform from there."""
    corners = _source_corners(transform, size_px)
    reach = int(np.ceil(factor))
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int) - reach, 0)
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + reach + 1
    region = image[y0:y1, x0:x1]
    if region.size == 0:
        return image, transform
    size = max(1, round(region.shape[1] / factor)), max(1, round(region.shape[0] / factor))
    small = cv2.resize(region, size, interpolation=cv2.INTER_AREA)
    fx, fy = region.shape[1] / size[0], region.shape[0] / size[1]
    # pixel centres: small index i covers region indices around (i + 0.5) f - 0.5
    to_image = np.array([[fx, 0, fx / 2 - 0.5 + x0], [0, fy, fy / 2 - 0.5 + y0], [0, 0, 1]])
    return np.asarray(small, dtype=np.uint8), transform @ to_image


def _source_corners(transform: Points, size_px: int) -> Points:
    inverse = np.asarray(cv2.invertAffineTransform(transform), dtype=np.float64)
    square = np.array([(0, 0), (size_px, 0), (size_px, size_px), (0, size_px)], dtype=np.float64)
    return apply_transform(inverse, square)


def _share_inside(transform: Points, size_px: int, width_px: int, height_px: int) -> float:
    quad = _source_corners(transform, size_px).astype(np.float32)
    frame = np.array([(0, 0), (width_px, 0), (width_px, height_px), (0, height_px)], dtype=np.float32)
    area, _ = cv2.intersectConvexConvex(quad, frame)
    return float(np.clip(area / max(cv2.contourArea(quad), 1e-6), 0.0, 1.0))

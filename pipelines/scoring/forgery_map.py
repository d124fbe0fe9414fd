"""From a network's forgery map to its figures: how much of a face is forged, how surely, and where in the frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.faces.align import Points, apply_transform, estimate_similarity
from pipelines.scoring.video_score import ForgeryMap

FORGED_FROM = 0.5
"""A place of the map is forged at or above this."""
WHITE = 255


def describe_map(
    values: npt.NDArray[np.float32], contract: Preprocessing, in_crop: Points, in_frame: Points
) -> ForgeryMap:
    """A map (h, w) in 0..1 of one face, as an image with its figures.

    Args:
        in_crop: the face's landmarks (5, 2) in pixels of the aligned crop.
        in_frame: the same in pixels of the frame; NaN where they are not known.
    """
    row, column = np.unravel_index(values.argmax(), values.shape)
    x0, y0, x1, y1 = contract.crop_box
    height, width = values.shape
    x = x0 + (column + 0.5) * (x1 - x0) / width - 0.5
    y = y0 + (row + 0.5) * (y1 - y0) / height - 0.5
    return ForgeryMap(
        image=np.rint(values * WHITE).astype(np.uint8),
        forged_share=float((values >= FORGED_FROM).mean()),
        peak=float(values[row, column]),
        peak_place=_find_in_frame(np.array([[x, y]]), in_crop, in_frame),
    )


def _find_in_frame(point: Points, in_crop: Points, in_frame: Points) -> tuple[float, float] | None:
    """A point (1, 2) of the aligned crop in the frame: through the inverse of the crop's similarity, from its landmarks."""
    if not np.isfinite(in_frame).all():
        return None
    to_frame = estimate_similarity(in_crop, in_frame)
    if to_frame is None:
        return None
    ((x, y),) = apply_transform(to_frame, point)
    return float(x), float(y)

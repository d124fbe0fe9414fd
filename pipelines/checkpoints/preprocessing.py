"""The preprocessing contract: how a video becomes the network's input. It is stored in every checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from pipelines.config import (
    ALIGNED_SIZE_PX,
    DEFAULT_DETECTOR,
    DEFAULT_FRAMES,
    MAX_INPUT_SIZE_PX,
    Aggregate,
    check_crop_box,
)
from pipelines.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Image = npt.NDArray[np.uint8]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_three(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_number, value))


_RULES: Mapping[str, Callable[[Any], bool]] = {
    "margin": lambda value: _is_number(value) and 0.25 <= value <= 4,
    "crop_box": lambda value: all(map(_is_whole, value)),
    "input_size": lambda value: _is_whole(value) and 1 <= value <= MAX_INPUT_SIZE_PX,
    "mean": _are_three,
    "std": lambda value: _are_three(value) and min(value) > 0,
    "detector": lambda value: isinstance(value, str),
    "detector_sha256": lambda value: isinstance(value, str),
    "max_side": lambda value: _is_whole(value) and value >= 32,
    "min_score": lambda value: _is_number(value) and 0 < value < 1,
    "frames": lambda value: _is_whole(value) and value >= 1,
    "aggregate": lambda value: value in get_args(Aggregate),
    "threshold": lambda value: _is_number(value) and 0 <= value <= 1,
}
"""Rules of the fields that have more than one valid value."""


@dataclass(frozen=True)
class Preprocessing:
    """How the network's input is made. Geometry, normalisation and class order must match; the rest are recommendations."""

    template: str = "wm-380"
    margin: float = 1.0
    aligned_size: int = ALIGNED_SIZE_PX
    crop_box: tuple[int, int, int, int] = (0, 0, ALIGNED_SIZE_PX, ALIGNED_SIZE_PX)
    """x0 y0 x1 y1 in the aligned frame."""
    input_size: int = ALIGNED_SIZE_PX
    interpolation: str = "area"
    color_order: str = "rgb"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Of values in 0..1."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    class_names: tuple[str, str] = ("real", "fake")
    detector: str = DEFAULT_DETECTOR
    detector_sha256: str = ""
    max_side: int = 960
    min_score: float = 0.8
    frames: int = DEFAULT_FRAMES
    aggregate: str = "max-track"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_crop_box(self.crop_box, self.aligned_size)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """From a checkpoint's header.

        Raises:
            CheckpointError: a field is missing, unknown, or not supported by this version.
        """
        value = _without_removed(value) if isinstance(value, Mapping) else value
        wrong = sorted({field.name for field in fields(cls)} ^ set(value))
        if wrong:
            raise CheckpointError(f"the checkpoint's preprocessing contract has a missing or unknown field: {wrong[0]}")
        try:
            arguments: dict[str, Any] = {
                key: tuple(item) if isinstance(item, list) else item for key, item in value.items()
            }
            contract = cls(**arguments)
        except ConfigError as error:
            raise CheckpointError(f"the checkpoint's preprocessing contract is wrong: {error}") from error
        contract.check_supported()
        return contract

    def to_json(self) -> dict[str, Any]:
        return {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(self).items()}

    def check_supported(self) -> None:
        """Refuse what this program would silently ignore, and values that would fail only when a video is scored."""
        for name, is_right in _RULES.items():
            if not is_right(getattr(self, name)):
                raise CheckpointError(
                    f"the checkpoint's preprocessing contract is wrong: {name} {getattr(self, name)!r}; get it again"
                )
        for name, wanted in (
            ("template", Preprocessing.template),
            ("aligned_size", Preprocessing.aligned_size),
            ("interpolation", Preprocessing.interpolation),
            ("color_order", Preprocessing.color_order),
            ("class_names", Preprocessing.class_names),
        ):
            got = getattr(self, name)
            if got != wanted:
                raise CheckpointError(f"the checkpoint's {name} is {got}, this version of deepfake uses {wanted}")


def _without_removed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A contract of an earlier version without what this version no longer has; refused if it depends on that."""
    if value.get("mirrored", False) is not False:
        raise CheckpointError(
            "the checkpoint asks for mirrored scoring, which this version of deepfake no longer has; "
            "train it again without mirrored"
        )
    if value.get("aggregate") == "confident":
        raise CheckpointError(
            "the checkpoint asks for the aggregate confident, which this version of deepfake no longer has; "
            "calibrate the original checkpoint again"
        )
    return {name: item for name, item in value.items() if name != "mirrored"}


def cut_input(crop: Image, contract: Preprocessing) -> Image:
    """The part of an aligned crop that the network sees, at its input size: (S, S, 3) uint8."""
    x0, y0, x1, y1 = contract.crop_box
    return resize_square(crop[y0:y1, x0:x1], contract.input_size)


def resize_square(image: Image, size_px: int) -> Image:
    """To (size_px, size_px, 3): by area averaging when that shrinks, bilinear when it enlarges."""
    import cv2

    if image.shape[:2] == (size_px, size_px):
        return np.ascontiguousarray(image)
    shrinks = min(image.shape[:2]) >= size_px
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=interpolation), dtype=np.uint8)


def to_network_input(images: Sequence[Image], contract: Preprocessing, device: Any = "cpu") -> Tensor:
    """Normalise inputs (S, S, 3) uint8 to one batch (N, 3, S, S) float32, in channels-last memory."""
    import torch

    batch = torch.from_numpy(np.stack(images)).to(device).float().div_(255)
    mean = torch.tensor(contract.mean, device=device)
    std = torch.tensor(contract.std, device=device)
    return batch.sub_(mean).div_(std).permute(0, 3, 1, 2)

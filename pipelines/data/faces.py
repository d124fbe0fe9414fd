"""The faces of a `detect-faces` manifest as training images: reading, memory cache, self-blends, prefetching."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Container, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, resize_square
from pipelines.data.face_hull import face_frame
from pipelines.data.forgery_masks import Mask, difference_mask
from pipelines.data.self_blending import ROOM_PX, blend_with_itself, draw_source_and_target
from pipelines.errors import ConfigError
from pipelines.faces.align import Points, template_points
from pipelines.system.image_files import join_images, read_image

Image = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
CACHE_BYTES_MAX = 6_000_000_000
BATCHES_AHEAD = 2
"""Batches that are prepared while the consumer works on one."""


@dataclass(frozen=True)
class Face:
    """A face crop on disk with its metadata."""

    path: Path
    label: int
    """0 real, 1 fake."""
    video_id: str
    landmarks: npt.NDArray[np.float32] | None = field(default=None, compare=False)
    """(5, 2) in pixels of the crop; NaN or None if unknown."""
    group: str | None = None
    """The group of its video: a fake and its original are in the same one."""
    mask_path: Path | None = None
    """A picture of the forged pixels in the aligned frame; None if unknown."""
    original_path: Path | None = None
    """Of a fake: the crop of the same frame of the video that it was made from; None if unknown."""


@dataclass(frozen=True)
class Batch:
    """The N faces of one step, or one process's share of them."""

    images: list[Image]
    """N of (S, S, 3) uint8."""
    labels: Integers
    """(N,), 0 real, 1 fake. A self-blended real face is fake."""
    indices: Integers
    """(N,), indices of the faces."""
    positions: Integers
    """(N,), positions in the order of the epoch, over all processes."""
    masks: list[Mask | None] | None = None
    """N of (S, S): the forged pixels, None where they are unknown; None altogether where they were not asked for."""


class TrainingView(NamedTuple):
    """One way in which a face is seen in training."""

    image: Image
    """(S, S, 3) uint8. Do not modify it."""
    mask: Mask | None
    """(S, S) uint8, cropped and mirrored with the image; None if unknown or not asked for."""


def default_cache_bytes() -> int:
    """At most half of the free memory."""
    free = _free_memory_bytes()
    return CACHE_BYTES_MAX if free is None else min(CACHE_BYTES_MAX, free // 2)


@dataclass
class FaceImages:
    """Reads crops at the contract's geometry, and caches the regions it needs up to `cache_bytes`."""

    faces: Sequence[Face]
    contract: Preprocessing
    augment: str = "flip"
    """Preset of `image_augmentation` for training images."""
    crop_jitter: float = 0.04
    """Random crops reach this share of the crop box beyond it, where the aligned frame has room. 0: the crop box itself."""
    cache_bytes: int = field(default_factory=default_cache_bytes)
    self_blends: bool = False
    """Whether real faces are also used for self-blends; larger regions are then cached."""
    masks: bool = False
    """Whether training views have forgery masks."""

    def __post_init__(self) -> None:
        if not 0 <= self.crop_jitter < 0.5:
            raise ConfigError(f"crop_jitter must be at least 0 and below 0.5, got {self.crop_jitter}")
        self._cache = _ImageCache(self.cache_bytes)

    def __len__(self) -> int:
        return len(self.faces)

    def evaluation_image(self, index: int) -> Image:
        """(S, S, 3) uint8, exactly the input that the network gets in `predict`."""
        return self._cache.get(("input", index), lambda: cut_input(read_image(self.faces[index].path), self.contract))

    def training_image(self, index: int, rng: np.random.Generator) -> Image:
        """(S, S, 3) uint8: the image of `training_view`."""
        return self.training_view(index, rng).image

    def training_view(self, index: int, rng: np.random.Generator) -> TrainingView:
        """A face shifted and scaled by a few percent, then augmented."""
        from pipelines.data.image_augmentation import augment_with_mask

        if not self._reach_px and not self._is_blended(index):  # otherwise one cached region serves both uses
            image, cut = self.evaluation_image(index), None
        else:
            region = self._region(index)
            cut = self._draw_cut(region, rng)
            image = self._cut(region, cut)
        return TrainingView(*augment_with_mask(image, self._mask_of(index, cut), self.augment, rng))

    def self_blended_image(self, index: int, rng: np.random.Generator, *, as_fake: bool) -> Image:
        """(S, S, 3) uint8: the image of `self_blended_view`."""
        return self.self_blended_view(index, rng, as_fake=as_fake).image

    def self_blended_view(self, index: int, rng: np.random.Generator, *, as_fake: bool) -> TrainingView:
        """A self-blend of a real face, or the target of that blend, which is learned as real.

        With equal generators, both are cropped and augmented in the same way and differ only in the blend. The mask is the
        blend's before its opacity.
        """
        from pipelines.data.image_augmentation import augment_with_mask

        assert self._is_blended(index), "only real faces are blended, where `self_blends` is set"
        rng_of_blend, rng_of_view = rng.spawn(2)
        room_px = self._room_px
        wide, mask = self._region(index, room_px), None
        if as_fake:
            blend = blend_with_itself(wide, self._landmarks_in_region(index, room_px), rng_of_blend)
            image, mask = blend.image, np.rint(255 * blend.mask).astype(np.uint8) if self.masks else None
        else:
            image = draw_source_and_target(wide, rng_of_blend)[1]
        rows, columns = self._slices(0, start=self._start(room_px))
        cut = self._draw_cut(image[rows, columns], rng_of_view)
        if mask is not None:
            mask = self._cut(mask[rows, columns], cut)
        elif self.masks:
            mask = self._no_mask()
        return TrainingView(*augment_with_mask(self._cut(image[rows, columns], cut), mask, self.augment, rng_of_view))

    @property
    def _reach_px(self) -> int:
        x0, _, x1, _ = self.contract.crop_box
        return int(self.crop_jitter * (x1 - x0))

    @property
    def _room_px(self) -> int:
        return math.ceil(ROOM_PX / self.contract.margin)

    def _is_blended(self, index: int) -> bool:
        return self.self_blends and self.faces[index].label == 0

    def _draw_cut(self, region: Image, rng: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of a random square of a region."""
        size, reach = self.contract.crop_box[2] - self.contract.crop_box[0], self._reach_px
        side_px = int(rng.integers(max(8, size - 2 * reach), min(size + 2 * reach, *region.shape[:2]) + 1))
        y0 = int(rng.integers(0, region.shape[0] - side_px + 1))
        x0 = int(rng.integers(0, region.shape[1] - side_px + 1))
        return slice(y0, y0 + side_px), slice(x0, x0 + side_px)

    def _cut(self, region: Image, cut: tuple[slice, slice]) -> Image:
        return resize_square(region[cut], self.contract.input_size)

    def _mask_of(self, index: int, cut: tuple[slice, slice] | None) -> Mask | None:
        """The mask of a stored face, cut like its image; `cut` None is the crop box itself."""
        if not self.masks:
            return None
        if self.faces[index].label == 0:
            return self._no_mask()
        region = self._cache.get(("mask", index), lambda: self._read_mask(index)[self._slices(0)].copy())
        if not region.size:
            return None
        return self._cut(region, cut or (slice(None), slice(None)))

    def _no_mask(self) -> Mask:
        return np.zeros((self.contract.input_size,) * 2, dtype=np.uint8)

    def _read_mask(self, index: int) -> Mask:
        """In the aligned frame; empty if unknown, so that this is remembered too."""
        face, mask = self.faces[index], None
        if face.mask_path is not None:
            mask = np.ascontiguousarray(read_image(face.mask_path)[..., 0])
        elif face.original_path is not None:
            mask = difference_mask(read_image(face.path), read_image(face.original_path), margin=self.contract.margin)
        return np.empty((0, 0), dtype=np.uint8) if mask is None else mask

    def _region(self, index: int, room_px: int = 0) -> Image:
        """The crop box with the margin that random crops need plus `room_px`, clipped to the aligned frame."""
        kept_px = self._room_px if self._is_blended(index) else 0
        kept_slices, slices = self._slices(kept_px), self._slices(room_px, start=self._start(kept_px))
        return self._cache.get(("region", index), lambda: read_image(self.faces[index].path)[kept_slices].copy())[
            slices
        ]

    def _start(self, room_px: int) -> tuple[int, int]:
        """x and y in the aligned frame of the top-left corner of a region with this margin."""
        x0, y0, _, _ = self.contract.crop_box
        return max(0, x0 - self._reach_px - room_px), max(0, y0 - self._reach_px - room_px)

    def _slices(self, room_px: int, start: tuple[int, int] = (0, 0)) -> tuple[slice, slice]:
        """Rows and columns of a region in the aligned frame, or in a larger region that begins at `start`."""
        _, _, x1, y1 = self.contract.crop_box
        (x, y), reach = self._start(room_px), self._reach_px + room_px
        return slice(y - start[1], y1 + reach - start[1]), slice(x - start[0], x1 + reach - start[0])

    def _landmarks_in_region(self, index: int, room_px: int) -> Points:
        known = self.faces[index].landmarks
        landmarks = template_points(self.contract.margin, self.contract.aligned_size)
        if known is not None and face_frame(known.astype(np.float64)) is not None:
            landmarks = known.astype(np.float64)
        return landmarks - self._start(room_px)


def preview_self_blends(images: FaceImages, *, seed: int, columns: int) -> list[Image]:
    """Preview rows, uint8 RGB, two for each real face: the targets of its self-blends, and the self-blends below them.

    Each row begins with the original face; crops and augmentation are those of training.
    """
    rows = []
    for index in (index for index, face in enumerate(images.faces) if face.label == 0):
        for as_fake in (False, True):
            streams = [np.random.default_rng((seed, index, column)) for column in range(1, columns)]
            cells = [images.self_blended_image(index, rng, as_fake=as_fake) for rng in streams]
            rows.append(join_images([images.evaluation_image(index), *cells], axis=1))
    return rows


class _ImageCache:
    """Images by key, up to a number of bytes. A pickled copy starts empty."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._images: dict[tuple[str, int], Image] = {}
        self._held_bytes = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _ImageCache, (self._limit_bytes,)

    def get(self, key: tuple[str, int], make: Callable[[], Image]) -> Image:
        image = self._images.get(key)
        if image is None:
            image = make()
            with self._lock:
                if key not in self._images and self._held_bytes + image.nbytes <= self._limit_bytes:
                    self._images[key] = image
                    self._held_bytes += image.nbytes
        return image


def _free_memory_bytes() -> int | None:
    """Memory available to programs, or None if the system does not report it."""
    try:  # on Linux this includes reclaimable file cache, unlike SC_AVPHYS_PAGES
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def load_batches(
    images: FaceImages,
    order: Sequence[int],
    batch_size: int,
    *,
    seed: tuple[int, ...],
    workers: int,
    first_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    blended: Container[int] = frozenset(),
) -> Generator[Batch, None, None]:
    """The augmented images of an epoch's complete batches from `first_step` on, prefetched by threads.

    Batch k of all processes is `order[k * batch_size : (k + 1) * batch_size]`; process `rank` of `world_size` gets the
    rank-th of equal slices of it. Each image has its own random stream of (seed, position in the order): neither the
    threads, nor the processes, nor where an epoch is resumed change a pixel. The faces at the positions `blended` become
    self-blends; the face before each is the target of that blend, made from the same stream.

    Raises:
        ConfigError: the batch cannot be divided equally among the processes.
    """
    assert 0 <= rank < world_size and first_step >= 0
    share, rest = divmod(batch_size, world_size)
    if rest:
        raise ConfigError(f"a batch of {batch_size} cannot be divided equally among {world_size} processes")
    starts = range(first_step * batch_size, len(order) - batch_size + 1, batch_size)
    steps = [np.arange(start + rank * share, start + (rank + 1) * share, dtype=np.int64) for start in starts]
    return _load_ahead(images, order, steps, seed=seed, workers=workers, blended=blended)


def _load_ahead(
    images: FaceImages,
    order: Sequence[int],
    steps: Sequence[Integers],
    *,
    seed: tuple[int, ...],
    workers: int,
    blended: Container[int],
) -> Generator[Batch, None, None]:
    def load(position: int) -> TrainingView:
        for place in (position, position + 1):
            if place in blended:
                rng = np.random.default_rng((*seed, place))
                return images.self_blended_view(order[place], rng, as_fake=position == place)
        return images.training_view(order[position], np.random.default_rng((*seed, position)))

    # torch's thread count stays as it is: reserving a core for each of these makes libgomp spin longer in the training step
    pool = ThreadPoolExecutor(max(1, workers), "load-faces")
    try:
        upcoming = ((positions, [pool.submit(load, int(p)) for p in positions]) for positions in steps)
        queued = deque(islice(upcoming, BATCHES_AHEAD))
        while queued:
            queued.extend(islice(upcoming, 1))
            positions, futures = queued.popleft()
            indices = np.array([order[p] for p in positions], dtype=np.int64)
            labels = np.array([int(p in blended) or images.faces[order[p]].label for p in positions], dtype=np.int64)
            views = [future.result() for future in futures]
            masks = [view.mask for view in views] if images.masks else None
            yield Batch([view.image for view in views], labels, indices, positions, masks)
    finally:  # also if the consumer stops early: pending images are dropped
        pool.shutdown(cancel_futures=True)

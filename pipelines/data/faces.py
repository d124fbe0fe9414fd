"""The faces of a `detect-faces` manifest as training images: reading, a memory cache, balanced drawing, loading ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import ConfigError, DatasetError
from pipelines.image_files import read_image
from pipelines.preprocessing import Preprocessing, cut_input, resize_square

Image = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
CACHE_BYTES_MAX = 6_000_000_000
BATCHES_AHEAD = 2
"""Batches that are made while the consumer works on one."""


@dataclass(frozen=True)
class Face:
    """A crop on disk and what is known of it."""

    path: Path
    label: int
    """0 real, 1 fake."""
    video_id: str


@dataclass(frozen=True)
class Batch:
    """What one process is given for one step: N faces, or its share of them."""

    images: list[Image]
    """N of (S, S, 3) uint8."""
    labels: Integers
    """(N,), 0 real, 1 fake."""
    indices: Integers
    """(N,), which faces they are."""
    positions: Integers
    """(N,), their places in the order of the epoch, over all processes."""


def default_cache_bytes() -> int:
    """At most half of the memory that is free now."""
    free = _free_memory_bytes()
    return CACHE_BYTES_MAX if free is None else min(CACHE_BYTES_MAX, free // 2)


@dataclass
class FaceImages:
    """Reads crops at the contract's geometry; keeps the region it needs in memory while `cache_bytes` lasts."""

    faces: Sequence[Face]
    contract: Preprocessing
    augment: str = "flip"
    """A preset of `image_augmentation`, for training images."""
    crop_jitter: float = 0.04
    """Random crops reach this share of the crop box beyond it, where the aligned frame has room. 0: the crop box itself."""
    cache_bytes: int = field(default_factory=default_cache_bytes)

    def __post_init__(self) -> None:
        if not 0 <= self.crop_jitter < 0.5:
            raise ConfigError(f"crop_jitter must be at least 0 and below 0.5, got {self.crop_jitter}")
        self._cache = _ImageCache(self.cache_bytes)

    def __len__(self) -> int:
        return len(self.faces)

    def evaluation_image(self, index: int) -> Image:
        """(S, S, 3) uint8, exactly what `predict` shows the network."""
        return self._cache.get(("input", index), lambda: cut_input(read_image(self.faces[index].path), self.contract))

    def training_image(self, index: int, rng: np.random.Generator) -> Image:
        """(S, S, 3) uint8: shifted and scaled by a few percent, then augmented. Not to be written to."""
        from pipelines.data.image_augmentation import augment_image

        image = self._random_crop(index, rng) if self._reach_px else self.evaluation_image(index)
        return augment_image(image, self.augment, rng)

    @property
    def _reach_px(self) -> int:
        x0, _, x1, _ = self.contract.crop_box
        return int(self.crop_jitter * (x1 - x0))

    def _random_crop(self, index: int, rng: np.random.Generator) -> Image:
        region = self._region(index)
        size, reach = self.contract.crop_box[2] - self.contract.crop_box[0], self._reach_px
        side_px = int(rng.integers(max(8, size - 2 * reach), min(size + 2 * reach, *region.shape[:2]) + 1))
        y0 = int(rng.integers(0, region.shape[0] - side_px + 1))
        x0 = int(rng.integers(0, region.shape[1] - side_px + 1))
        return resize_square(region[y0 : y0 + side_px, x0 : x0 + side_px], self.contract.input_size)

    def _region(self, index: int) -> Image:
        """The crop box with the room that random crops need, clipped to the aligned frame."""
        x0, y0, x1, y1 = self.contract.crop_box
        reach = self._reach_px
        rows = slice(max(0, y0 - reach), y1 + reach)
        columns = slice(max(0, x0 - reach), x1 + reach)
        return self._cache.get(("region", index), lambda: read_image(self.faces[index].path)[rows, columns].copy())


class _ImageCache:
    """Images by key, as many as fit into a number of bytes. A copy for another process starts empty."""

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
    """What programs can still have, or None where the system does not say."""
    try:  # Linux counts what its file cache would give back here, but not under SC_AVPHYS_PAGES
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def draw_balanced(faces: Sequence[Face], count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` faces, real and fake in turn; every video of a class once before any comes again.

    A video's face is drawn anew each time, so videos with many faces do not outweigh the others.
    """
    by_class: list[dict[str, list[int]]] = [{}, {}]
    for index, face in enumerate(faces):
        by_class[face.label].setdefault(face.video_id, []).append(index)
    if not all(by_class):
        raise DatasetError("one class has no faces to train on; add videos of it")
    streams = [_endless_faces(list(videos.values()), rng) for videos in by_class]
    return [next(streams[position % 2]) for position in range(count)]


def _endless_faces(videos: list[list[int]], rng: np.random.Generator) -> Iterator[int]:
    while True:
        for video in rng.permutation(len(videos)):
            faces = videos[video]
            yield faces[int(rng.integers(len(faces)))]


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
) -> Generator[Batch, None, None]:
    """The augmented images of an epoch's whole batches from `first_step` on, read ahead by threads.

    Batch k of all processes is `order[k * batch_size : (k + 1) * batch_size]`; process `rank` of `world_size` gets the
    rank-th of equal slices of it. Each image has its own random stream of (seed, position in the order): neither the
    threads, nor the processes, nor where an epoch is resumed change a pixel.

    Raises:
        ConfigError: the batch can not be divided equally among the processes.
    """
    assert 0 <= rank < world_size and first_step >= 0
    share, rest = divmod(batch_size, world_size)
    if rest:
        raise ConfigError(f"a batch of {batch_size} can not be divided equally among {world_size} processes")
    starts = range(first_step * batch_size, len(order) - batch_size + 1, batch_size)
    steps = [np.arange(start + rank * share, start + (rank + 1) * share, dtype=np.int64) for start in starts]
    return _load_ahead(images, order, steps, seed=seed, workers=workers)


def _load_ahead(
    images: FaceImages, order: Sequence[int], steps: Sequence[Integers], *, seed: tuple[int, ...], workers: int
) -> Generator[Batch, None, None]:
    def load(position: int) -> Image:
        return images.training_image(order[position], np.random.default_rng((*seed, position)))

    # torch's threads are left alone here: one core for each of these makes libgomp spin longer in the training step
    pool = ThreadPoolExecutor(max(1, workers), "load-faces")
    try:
        upcoming = ((positions, [pool.submit(load, int(p)) for p in positions]) for positions in steps)
        queued = deque(islice(upcoming, BATCHES_AHEAD))
        while queued:
            queued.extend(islice(upcoming, 1))
            positions, futures = queued.popleft()
            indices = np.array([order[p] for p in positions], dtype=np.int64)
            labels = np.array([images.faces[index].label for index in indices], dtype=np.int64)
            yield Batch([future.result() for future in futures], labels, indices, positions)
    finally:  # also where the consumer stops early: what has not begun is dropped
        pool.shutdown(cancel_futures=True)

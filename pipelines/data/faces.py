"""The faces of a `detect-faces` manifest as training images: reading, a memory cache, light geometric augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.errors import DatasetError
from pipelines.image_files import read_image
from pipelines.preprocessing import Preprocessing, cut_input, resize_square

Image = npt.NDArray[np.uint8]
SHIFT_SHARE = 0.04
"""Random crops reach this share of the crop box beyond it, where the aligned frame has room."""
DEFAULT_CACHE_BYTES = 6_000_000_000


@dataclass(frozen=True)
class Face:
    """A crop on disk and what is known of it."""

    path: Path
    label: int
    """0 real, 1 fake."""
    video_id: str


@dataclass
class FaceImages:
    """Reads crops at the contract's geometry; keeps the region it needs in memory while `cache_bytes` lasts."""

    faces: Sequence[Face]
    contract: Preprocessing
    cache_bytes: int = DEFAULT_CACHE_BYTES
    _cache: dict[tuple[str, int], Image] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.faces)

    def evaluation_image(self, index: int) -> Image:
        """(S, S, 3) uint8, exactly what `predict` shows the network."""
        return self._cached(("input", index), lambda: cut_input(read_image(self.faces[index].path), self.contract))

    def training_image(self, index: int, rng: np.random.Generator) -> Image:
        """(S, S, 3) uint8: mirrored half of the time, shifted and scaled by a few percent."""
        region = self._region(index)
        size = self.contract.crop_box[2] - self.contract.crop_box[0]
        reach = int(SHIFT_SHARE * size)
        side_px = int(rng.integers(max(8, size - 2 * reach), min(size + 2 * reach, *region.shape[:2]) + 1))
        y0 = int(rng.integers(0, region.shape[0] - side_px + 1))
        x0 = int(rng.integers(0, region.shape[1] - side_px + 1))
        image = resize_square(region[y0 : y0 + side_px, x0 : x0 + side_px], self.contract.input_size)
        return np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image

    def _region(self, index: int) -> Image:
        """The crop box with the room that random crops need, clipped to the aligned frame."""
        x0, y0, x1, y1 = self.contract.crop_box
        reach = int(SHIFT_SHARE * (x1 - x0))
        rows = slice(max(0, y0 - reach), y1 + reach)
        columns = slice(max(0, x0 - reach), x1 + reach)
        return self._cached(("region", index), lambda: read_image(self.faces[index].path)[rows, columns].copy())

    def _cached(self, key: tuple[str, int], make: Callable[[], Image]) -> Image:
        image = self._cache.get(key)
        if image is None:
            image = make()
            if (len(self._cache) + 1) * image.nbytes <= self.cache_bytes:
                self._cache[key] = image
        return image


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
    images: FaceImages, order: Sequence[int], batch_size: int, *, seed: tuple[int, ...], workers: int
) -> Iterator[tuple[list[Image], npt.NDArray[np.int64]]]:
    """Augmented images and labels (N,) batch by batch, read ahead by threads.

    Each image has its own random stream of (seed, position): the result does not depend on the number of threads.
    """

    def load(position: int) -> Image:
        return images.training_image(order[position], np.random.default_rng((*seed, position)))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        starts = range(0, len(order) - batch_size + 1, batch_size)
        ahead = [[pool.submit(load, start + i) for i in range(batch_size)] for start in starts[:2]]
        for number, start in enumerate(starts):
            if number + 2 < len(starts):
                ahead.append([pool.submit(load, starts[number + 2] + i) for i in range(batch_size)])
            batch = [future.result() for future in ahead.pop(0)]
            labels = np.array(
                [images.faces[index].label for index in order[start : start + batch_size]], dtype=np.int64
            )
            yield batch, labels

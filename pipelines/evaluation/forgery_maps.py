"""Forgery maps of a workspace's faces, and the true masks that they are compared with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipelines.checkpoints.checkpoint import load_checkpoint, read_header
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, resize_square, to_network_input
from pipelines.checkpoints.weights_files import WeightsFile, resolve_weights
from pipelines.config import RunOptions
from pipelines.data.forgery_masks import FORGED, difference_mask, find_originals
from pipelines.engines.engine import load_engine
from pipelines.errors import ConfigError, InputError
from pipelines.evaluation.localisation import (
    Example,
    FaceMatch,
    FoundFaces,
    Map,
    MapKind,
    Mask,
    MaskState,
    compare,
    marked_share,
)
from pipelines.models import build_model
from pipelines.records import FaceRow, table_to_rows
from pipelines.scoring.detector import in_batches
from pipelines.system.device import choose_device
from pipelines.system.image_files import Image, read_image, to_mask
from pipelines.system.prefetch import read_ahead
from pipelines.system.progress import Progress, ProgressCallback
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.manifest import read_table

TASK = "localisation"
MAX_WORKERS = 4
MASK_FROM = 0.5
"""A pixel of the mask, at the network's input size, is forged at or above this."""
NUM_EXAMPLES = 8


class Locator:
    """A checkpoint's network as the source of forgery maps."""

    def __init__(self, checkpoint: str, options: RunOptions) -> None:
        """Load it.

        Raises:
            CheckpointError: it cannot be loaded.
            ConfigError: the network has no maps.
        """
        self.device = choose_device(options.device)
        file = resolve_weights(checkpoint, kind="checkpoint")
        header = read_header(file.path)
        self.contract = header.preprocessing
        self.kind: MapKind = "forgery map"
        self._run = self._load_engine(file)
        size_px = self.contract.input_size
        blank = [np.zeros((size_px, size_px, 3), np.uint8)]
        if self._run(blank) is None:
            self.kind = "attention"
            self._run = self._load_network(file)
        if self._run(blank) is None:
            raise ConfigError(
                f"--localisation needs maps of where a face is forged, and the network {header.model} of {checkpoint} has "
                "none; pass a checkpoint of f-bifpn-mtlnet, or of multi-attention for its attention maps"
            )

    def locate(self, images: Sequence[Image]) -> Map:
        """(N, h, w) float32 in 0..1 of network inputs (S, S, 3) uint8; attention maps summed, divided by their maximum.

        Raises:
            InputError: the network gives something else.
        """
        maps = self._run(images)
        if maps is None or not ((maps >= 0) & (maps <= 1)).all():
            raise InputError("the checkpoint gives no maps with numbers in 0..1 for these faces; use another one")
        return maps

    def _load_engine(self, file: WeightsFile) -> Callable[[Sequence[Image]], Map | None]:
        engine = load_engine("torch", "float32", checkpoint=file, contract=self.contract, device=self.device)
        return lambda images: engine.classify(images).forgery_maps

    def _load_network(self, file: WeightsFile) -> Callable[[Sequence[Image]], Map | None]:
        """What engines do not give: attention maps."""
        network = load_checkpoint(file, build_model, self.device).network

        @torch.inference_mode()
        def run(images: Sequence[Image]) -> Map | None:
            maps = network(to_network_input(images, self.contract, self.device)).attention_maps
            return None if maps is None else scale_attention(maps.float().cpu().numpy())

        return run


def scale_attention(maps: npt.NDArray[np.float32]) -> Map:
    """(N, h, w) in 0..1 from attention maps (N, M, h, w) >= 0: their sum, divided by each face's maximum."""
    total = maps.sum(axis=1)
    peak = total.max(axis=(1, 2), keepdims=True)
    scaled: Map = np.divide(total, peak, out=np.zeros_like(total), where=peak != 0)
    return scaled


def has_masks(workspace: Path) -> bool:
    """Whether any face of a workspace may have a mask: a stored one, or an original to be compared with."""
    folder, _ = open_upstream(workspace, "detect-faces")
    rows = _read_rows(folder)
    return any(row.mask_path for row in rows) or bool(find_originals(folder.read_videos(), [vars(row) for row in rows]))


def locate_faces(
    workspace: Path,
    labels: Mapping[str, int],
    locator: Locator,
    options: RunOptions,
    found: FoundFaces,
    *,
    on_progress: ProgressCallback,
) -> None:
    """Compare the map of every face whose video has a label with its mask, and add the result to `found`.

    Args:
        labels: 0 real, 1 fake, by video_id; other videos are skipped.

    Raises:
        ManifestError: no finished stage.
        InputError: a crop is missing or damaged.
    """
    faces = _Faces.of(workspace, labels, locator.contract)
    rows = [row for row in faces.rows if row.video_id in labels]
    shown = {row.crop_path for row in _choose_examples([row for row in rows if faces.may_have_mask(row)])}
    num_done = 0
    on_progress(Progress(TASK, 0, len(rows), "face"))
    with ThreadPoolExecutor(options.workers or min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        loaded = read_ahead(_in_order(pool, faces.load, rows), depth=options.batch_size)
        for batch in in_batches(loaded, options.batch_size):
            known = [face for face in batch if face.image is not None]
            maps = locator.locate([face.image for face in known if face.image is not None]) if known else ()
            results = pool.map(_compare, known, maps)
            for face, forgery_map, result in zip(known, maps, results, strict=True):
                if isinstance(result, FaceMatch):
                    found.fakes.setdefault(face.row.video_id, []).append(result)
                else:
                    found.reals.setdefault(face.row.video_id, []).append(result)
                if face.row.crop_path in shown and face.image is not None and face.mask is not None:
                    found.examples.append(Example(face.image, face.mask, forgery_map))
            for face in batch:
                if face.state:
                    found.count(face.state, face.row.mask_path or face.row.crop_path)
            num_done += len(batch)
            on_progress(Progress(TASK, num_done, len(rows), "face"))


def cut_mask(mask: Image, contract: Preprocessing) -> Mask:
    """The part of an aligned mask (380, 380), 255 forged, that the network sees, at its input size: (S, S) bool."""
    x0, y0, x1, y1 = contract.crop_box
    return np.asarray(resize_square(mask[y0:y1, x0:x1], contract.input_size) >= MASK_FROM * FORGED, dtype=np.bool_)


@dataclass(frozen=True)
class _Face:
    """A face to compare."""

    row: FaceRow
    image: Image | None = None
    """The network's input; None for a fake face that is left out."""
    mask: Mask | None = None
    """None for a real face."""
    state: MaskState | None = None
    """None for a real face."""


@dataclass(frozen=True)
class _Faces:
    """Reads the faces of a workspace and their masks."""

    folder: Path
    contract: Preprocessing
    labels: Mapping[str, int]
    rows: Sequence[FaceRow]
    originals: Mapping[str, str]
    """`crop_path` of the same frame of the original, by that of a fake."""

    @classmethod
    def of(cls, workspace: Path, labels: Mapping[str, int], contract: Preprocessing) -> _Faces:
        folder, _ = open_upstream(workspace, "detect-faces")
        rows = _read_rows(folder)
        originals = find_originals(folder.read_videos(), [vars(row) for row in rows])
        return cls(folder.root, contract, labels, rows, originals)

    def may_have_mask(self, row: FaceRow) -> bool:
        """Whether a face is of a fake and has a stored mask or an original."""
        return self.labels[row.video_id] == 1 and bool(row.mask_path or row.crop_path in self.originals)

    def load(self, row: FaceRow) -> _Face:
        if self.labels[row.video_id] == 0:
            return _Face(row, self._read_input(row))
        grey, state = self._find_mask(row)
        if grey is None:
            return _Face(row, state=state)
        mask = cut_mask(grey, self.contract)
        if mask.all() or not mask.any():
            return _Face(row, state="uniform")
        return _Face(row, self._read_input(row), mask, state)

    def _find_mask(self, row: FaceRow) -> tuple[Image | None, MaskState]:
        """The mask (380, 380) of a fake face, or None, and why."""
        if row.mask_path is None:
            mask = self._compare_with_original(row.crop_path)
            return (None, "unknown") if mask is None else (mask, "difference")
        try:
            grey = to_mask(read_image(self.folder / row.mask_path))
        except InputError:
            return None, "unreadable"
        size = self.contract.aligned_size
        return (grey, "file") if grey.shape == (size, size) else (None, "wrong_size")

    def _compare_with_original(self, crop_path: str) -> Image | None:
        if crop_path not in self.originals:
            return None
        fake, original = (read_image(self.folder / path) for path in (crop_path, self.originals[crop_path]))
        return difference_mask(fake, original, margin=self.contract.margin)

    def _read_input(self, row: FaceRow) -> Image:
        return cut_input(read_image(self.folder / row.crop_path), self.contract)


def _in_order(pool: ThreadPoolExecutor, load: Callable[[FaceRow], _Face], rows: Sequence[FaceRow]) -> Iterator[_Face]:
    """Loaded in threads, a few at a time."""
    for together in in_batches(rows, MAX_WORKERS):
        yield from pool.map(load, together)


def _compare(face: _Face, forgery_map: Map) -> FaceMatch | float:
    """A fake face's agreement, or a real face's marked share."""
    if face.mask is not None:
        return compare(forgery_map, face.mask)
    assert face.image is not None
    return marked_share(forgery_map, len(face.image))


def _choose_examples(rows: Sequence[FaceRow]) -> list[FaceRow]:
    """The middle face of up to 8 videos, spread evenly over all."""
    by_video: dict[str, list[FaceRow]] = {}
    for row in rows:
        by_video.setdefault(row.video_id, []).append(row)
    videos = list(by_video.values())
    places = np.unique(np.linspace(0, len(videos) - 1, min(NUM_EXAMPLES, len(videos))).round().astype(int))
    return [videos[place][len(videos[place]) // 2] for place in places]


def _read_rows(folder: StageFolder) -> list[FaceRow]:
    rows: list[Any] = table_to_rows(read_table(folder.manifest_path, FaceRow), FaceRow)
    return rows

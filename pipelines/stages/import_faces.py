"""Stage `import-faces`: pictures of cropped faces become a `detect-faces` manifest.

Each picture is detected again on a copy with replicated edges and aligned like any other face. A face that is not found
again is kept where tight crops usually lie in the aligned frame, with an empty score as the flag. A mask of the picture is
moved as the picture is, but black over its edge.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.preprocessing import resize_square
from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.config import ALIGNED_SIZE_PX, ImportConfig, RunOptions, refuse_shard, settings_of
from pipelines.data.face_crop_batches import (
    FaceBatch,
    SourceVideo,
    group_videos,
    make_batches,
    split_batches,
    split_where_begun,
)
from pipelines.data.face_crop_sources import SourceFace, read_source
from pipelines.errors import InputError, describe_failure
from pipelines.faces.align import AlignedFace, align_face, align_mask
from pipelines.faces.crops import landmark_columns, mask_path_of
from pipelines.records import FaceRow, VideoRow
from pipelines.system.atomic_files import make_folder
from pipelines.system.image_files import decode_image, decode_mask, write_image
from pipelines.system.progress import ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.items import ItemResult, StageWork
from pipelines.workspace.manifest import Provenance, read_note, read_table
from pipelines.workspace.run_loop import StageSummary, enter_stage, run_items, write_manifests

if TYPE_CHECKING:
    from pipelines.faces.detector import FaceDetector, Faces

Image = npt.NDArray[np.uint8]
STAGE = "import-faces"
STANDS_FOR = "detect-faces"
ROW_FORMAT = 1
THREADS = 2
"""Default number of threads that decode and write pictures."""
PAD_SHARE = 0.5
"""Replicated border on each side, as a share of the picture, so that the detector sees a whole head."""
MAX_DETECTION_SIDE_PX = 640
UNFOUND_SIZE_PX = 216
UNFOUND_CENTER_PX = (188, 216)
"""Where a tight crop usually lies in the aligned frame."""


def import_faces(
    source: str | Path,
    workspace: str | Path,
    config: ImportConfig | None = None,
    options: RunOptions | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> StageSummary:
    """Write the workspace's `detect-faces` stage from pictures of faces.

    Args:
        source: a Parquet file (`image` or `image_jpeg`; `video, label, split, original, identity` optional), a CSV
            (`path, label`; `video, split, original, identity` optional) or a folder with `real/` and `fake/`, optionally
            under `train/`, `val/`, `test/`. A column `mask` of encoded pictures (Parquet) or of paths of pictures (CSV) gives
            masks, as large as their pictures; those of real faces are ignored.

    Raises:
        DatasetError: nothing to import, or one picture with two labels.
        SettingsChangedError: the workspace holds faces made with other settings.
    """
    config, options = config or ImportConfig(), options or RunOptions()
    refuse_shard(options, STAGE)
    videos = group_videos(read_source(Path(source)))
    detector = None if config.as_is else resolve_weights(config.detector, kind="detector")
    settings = settings_of(
        config,
        detector=detector.name if detector else "none",
        detector_sha256=detector.sha256 if detector else "",
    )
    provenance = Provenance(STAGE, ROW_FORMAT, settings)
    with enter_stage(workspace, provenance, options, folder_name=STANDS_FOR) as folder:
        importer = _Importer(folder, config, options)
        work = StageWork[FaceBatch](folder, provenance, FaceRow, importer.process, importer.prepare)
        is_finished = cache(work.is_finished)

        def run(batches: Sequence[FaceBatch]) -> dict[str, Exception]:
            todo = {batch.part_id: batch for batch in batches if not is_finished(batch.part_id)}
            done = len(batches) - len(todo)
            return run_items(work, todo, options, done=done, unit="part", on_progress=on_progress)

        readable: dict[str, SourceVideo] = {}
        for video in videos:
            if video.row.status == "ok" and (video.masks_sha256 or video.row.video_id not in readable):
                readable[video.row.video_id] = video
        batches = split_where_begun(make_batches(readable.values()), is_finished)
        skipped = sum(len(batch.videos) for batch in batches if is_finished(batch.part_id))
        failures = run(batches)
        broken = [part for part, failure in failures.items() if isinstance(failure, InputError)]
        if broken:  # one video that breaks a part must not take the part's other videos with it
            for part in broken:
                shutil.rmtree(folder.root / "crops" / part, ignore_errors=True)
            tried = {batch.part_id for batch in batches}
            batches = split_batches(batches, broken)
            failures |= run([batch for batch in batches if batch.part_id not in tried])
        outcomes = {row.video_id: row for batch in batches for row in _outcomes(batch, folder, failures)}
        rows = [_with_outcome_of(video.row, outcomes) if video.row.status == "ok" else video.row for video in videos]
        write_manifests(work, rows, [batch.part_id for batch in batches if batch.part_id not in failures])
        return StageSummary(STANDS_FOR, folder.root, rows, skipped)


class _Importer:
    """Aligns batches of pictures; loads the detector when the first one needs it. To be pickled before that."""

    def __init__(self, folder: StageFolder, config: ImportConfig, options: RunOptions) -> None:
        self.folder = folder
        self.config = config
        self.options = options
        self._detector: FaceDetector | None = None

    def process(self, batch: FaceBatch) -> ItemResult:
        """Rows, crops and masks of one part. Pictures and masks that do not fit are left out and named in its note."""
        folder = self.folder.root / "crops" / batch.part_id
        make_folder(folder)
        rows: list[FaceRow] = []
        unreadable: dict[str, list[str]] = {}
        without_mask: dict[str, list[str]] = {}
        todo = [(video, index) for video in batch.videos for index in range(len(video.faces))]
        with ThreadPoolExecutor(THREADS if self.options.isolate else self.options.workers or THREADS) as pool:
            for chunk in _in_chunks(todo, 4 * self.options.batch_size):
                images = list(pool.map(lambda entry: decode_image(entry[0].faces[entry[1]].read()), chunk))
                masks = list(pool.map(lambda entry: _read_mask(entry[0].faces[entry[1]]), chunk))
                found = self._find_faces([image for image in images if image is not None])
                writes = []
                for (video, index), image, mask in zip(chunk, images, masks, strict=True):
                    source, video_id = video.faces[index], video.row.video_id
                    if image is None:
                        unreadable.setdefault(video_id, []).append(source.name)
                        continue
                    face = self._align(image, next(found))
                    crop_path = f"crops/{batch.part_id}/{video_id}_{index:04d}.png"
                    writes.append(pool.submit(write_image, self.folder.root / crop_path, face.aligned.crop))
                    mask_path = None
                    if mask is not None and mask.shape == image.shape[:2]:
                        mask_path = mask_path_of(crop_path)
                        aligned_mask = self._align_mask(mask, face)
                        writes.append(pool.submit(write_image, self.folder.root / mask_path, aligned_mask))
                    elif source.read_mask is not None:
                        without_mask.setdefault(video_id, []).append(source.name)
                    rows.append(face.to_row(video_id, index, crop_path, mask_path))
                for write in writes:
                    write.result()
        size_of = {video.row.video_id: len(video.faces) for video in batch.videos}
        notes = {
            video_id: _describe(unreadable.get(video_id, []), without_mask.get(video_id, []), size_of[video_id])
            for video_id in unreadable | without_mask
        }
        return ItemResult(rows, note=json.dumps(notes) if notes else None, folder=folder)

    def prepare(self) -> None:
        """Load the detector, unless the pictures are taken as they are."""
        if not self.config.as_is:
            self._load_detector()

    def _find_faces(self, images: Sequence[Image]) -> Iterator[Faces | None]:
        """The detector's answer on each padded picture, in pixels of the picture itself."""
        if self.config.as_is:
            yield from [None] * len(images)
            return
        padded = [_pad(image) for image in images]
        for image, faces in zip(images, self._load_detector().detect(padded), strict=True):
            offset = np.array(_padding(image), dtype=np.float64)
            yield replace(faces, boxes=faces.boxes - np.tile(offset, 2), landmarks=faces.landmarks - offset)

    def _load_detector(self) -> FaceDetector:
        if self._detector is None:
            from pipelines.faces.detector import load_detector
            from pipelines.system.device import choose_device

            self._detector = load_detector(
                self.config.detector,
                max_side=MAX_DETECTION_SIDE_PX,
                min_score=self.config.min_score,
                device=choose_device(self.options.device),
                batch_size=self.options.batch_size,
            )
        return self._detector

    def _align(self, image: Image, faces: Faces | None) -> _ImportedFace:
        if self.config.as_is:
            return _ImportedFace(AlignedFace(resize_square(image, ALIGNED_SIZE_PX), np.empty((0, 2)), 1.0))
        index = _most_central(faces, image) if faces is not None and len(faces) else None
        if faces is not None and index is not None:
            aligned = align_face(image, faces.landmarks[index], margin=self.config.margin, border="replicate")
            if aligned is not None:
                return _ImportedFace(aligned, faces.boxes[index], float(faces.scores[index]), faces.landmarks[index])
        crop, share = _place_unfound(image, self.config.margin, cv2.BORDER_REPLICATE)
        return _ImportedFace(AlignedFace(crop, np.empty((0, 2)), share))

    def _align_mask(self, mask: Image, face: _ImportedFace) -> Image:
        """(380, 380) uint8: the mask (H, W) of a picture, where the picture is in the aligned frame."""
        if self.config.as_is:
            return resize_square(mask, ALIGNED_SIZE_PX)
        aligned = None if face.landmarks is None else align_mask(mask, face.landmarks, margin=self.config.margin)
        return _place_unfound(mask, self.config.margin, cv2.BORDER_CONSTANT)[0] if aligned is None else aligned


@dataclass(frozen=True)
class _ImportedFace:
    """A picture in the aligned frame; without score, box and landmarks if it was not found again."""

    aligned: AlignedFace
    box: npt.NDArray[np.float64] | None = None
    score: float | None = None
    landmarks: npt.NDArray[np.float64] | None = None

    def to_row(self, video_id: str, index: int, crop_path: str, mask_path: str | None) -> FaceRow:
        x0, y0, x1, y1 = (None,) * 4 if self.box is None else (float(value) for value in self.box)
        return FaceRow(
            video_id=video_id,
            frame_index=index,
            face_index=0,
            pts_seconds=0.0,
            track=0,
            x0_px=x0,
            y0_px=y0,
            x1_px=x1,
            y1_px=y1,
            score=self.score,
            **landmark_columns(self.landmarks, "px"),
            **landmark_columns(None if self.landmarks is None else self.aligned.landmarks, "crop_px"),
            valid_share=self.aligned.valid_share,
            crop_path=crop_path,
            mask_path=mask_path,
        )


def _read_mask(face: SourceFace) -> Image | None:
    return None if face.read_mask is None else decode_mask(face.read_mask())


def _describe(unreadable: Sequence[str], without_mask: Sequence[str], num_pictures: int) -> str:
    """What is said of a video with pictures that do not decode, or with masks that cannot be used."""
    said = []
    if unreadable and num_pictures == 1:
        said.append(f"{unreadable[0]} is not a readable picture")
    elif unreadable:
        said.append(
            f"{len(unreadable)} of {num_pictures} pictures are missing or not readable: {_name_first(unreadable)}"
        )
    if without_mask:
        said.append(
            f"{len(without_mask)} of {num_pictures} pictures have a mask that is missing, not readable or of another size than "
            f"the picture: {_name_first(without_mask)}; correct the masks and import again"
        )
    return "; ".join(said)


def _name_first(names: Sequence[str]) -> str:
    return names[0] + (", …" if len(names) > 1 else "")


def _outcomes(batch: FaceBatch, folder: StageFolder, failures: Mapping[str, BaseException]) -> Iterator[VideoRow]:
    if batch.part_id in failures:
        for video in batch.videos:
            yield replace(video.row, status="failed", error=describe_failure(failures[batch.part_id]))
        return
    path = folder.part_path(batch.part_id)
    rows = Counter(read_table(path).column("video_id").to_pylist())
    notes = json.loads(read_note(path, "note") or "{}")
    for video in batch.videos:
        error, num_rows = notes.get(video.row.video_id), rows[video.row.video_id]
        yield replace(video.row, status="ok" if num_rows else "unreadable", error=error, rows=num_rows)


def _with_outcome_of(row: VideoRow, outcomes: Mapping[str, VideoRow]) -> VideoRow:
    outcome = outcomes[row.video_id]
    return replace(row, status=outcome.status, error=outcome.error, rows=outcome.rows)


def _most_central(faces: Faces, image: Image) -> int | None:
    """The face that a tight crop is about: the best of score times overlap with the picture."""
    height_px, width_px = image.shape[:2]
    overlap = np.minimum(faces.boxes[:, 2:], [width_px, height_px]) - np.maximum(faces.boxes[:, :2], 0)
    area = np.clip(overlap, 0, None).prod(axis=1) / (height_px * width_px)
    best = int(np.argmax(area * faces.scores))
    return best if area[best] > 0.1 else None


def _place_unfound(image: Image, margin: float, border: int) -> tuple[Image, float]:
    """The picture as it is, where tight crops usually lie in the aligned frame, and the share that it takes there.

    Args:
        border: how OpenCV fills the rest.
    """
    size = round(UNFOUND_SIZE_PX / margin)
    center_x, center_y = (round(190 + (center - 190) / margin) for center in UNFOUND_CENTER_PX)
    x0, y0 = max(0, center_x - size // 2), max(0, center_y - size // 2)
    x1, y1 = min(ALIGNED_SIZE_PX, x0 + size), min(ALIGNED_SIZE_PX, y0 + size)
    small = resize_square(image, size)[: y1 - y0, : x1 - x0]
    placed = cv2.copyMakeBorder(small, y0, ALIGNED_SIZE_PX - y1, x0, ALIGNED_SIZE_PX - x1, border)
    return np.asarray(placed, dtype=np.uint8), (x1 - x0) * (y1 - y0) / ALIGNED_SIZE_PX**2


def _pad(image: Image) -> Image:
    x, y = _padding(image)
    return np.asarray(cv2.copyMakeBorder(image, y, y, x, x, cv2.BORDER_REPLICATE), dtype=np.uint8)


def _padding(image: Image) -> tuple[int, int]:
    return round(PAD_SHARE * image.shape[1]), round(PAD_SHARE * image.shape[0])


def _in_chunks(entries: Sequence[tuple[SourceVideo, int]], size: int) -> Iterator[Sequence[tuple[SourceVideo, int]]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]

"""Stage `detect-faces`: every face of every extracted frame, tracked and aligned to 380x380, and the masks of fakes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.config import DetectConfig, RunOptions, settings_of
from pipelines.errors import InputError, ManifestError
from pipelines.records import FaceRow, FrameRow, VideoRow, table_to_rows
from pipelines.system.atomic_files import make_folder
from pipelines.system.image_files import read_image, write_image
from pipelines.system.prefetch import read_ahead
from pipelines.system.progress import ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.items import ItemResult, StageWork
from pipelines.workspace.manifest import Provenance, read_table
from pipelines.workspace.run_loop import StageSummary, enter_stage, run_stage
from pipelines.workspace.shards import select_videos

if TYPE_CHECKING:
    from pipelines.faces.detector import FaceDetector

log = logging.getLogger(__name__)
STAGE = "detect-faces"
ROW_FORMAT = 1
CROP_SUFFIX = ".png"
WITHOUT_MASKS = "faces without masks: "
"""Begins the note of a video whose mask video could not be used."""


@dataclass(frozen=True)
class VideoFrames:
    """The extracted frames of one video."""

    video_id: str
    rows: tuple[FrameRow, ...]
    path: str
    mask: str | None = None
    """Path of the video's mask video; None for a real video."""
    is_detected: bool = False
    """Its faces are in a finished part and lack only their masks."""


@dataclass(frozen=True)
class StoredFrame:
    """A frame read back from the workspace."""

    index: int
    pts_seconds: float
    image: npt.NDArray[np.uint8]


def detect_faces(
    workspace: str | Path,
    config: DetectConfig | None = None,
    options: RunOptions | None = None,
    *,
    on_progress: ProgressCallback = ignore_progress,
) -> StageSummary:
    """Detect, track and align the faces in the workspace's frames. A video without a face is a result: `no_face`.

    With a shard, only those of its slice of the finished `extract-frames` stage.

    The faces of a video that is not labelled real and has a `mask` get masks, aligned as the faces. If the mask video cannot
    be used, the faces are written without and the video's `error` says why. A later run tries it again, and adds the masks
    to faces that were finished without any, also by versions that knew no masks, without detecting them again.

    Raises:
        ManifestError: no finished `extract-frames` stage.
        CheckpointError: the detector cannot be loaded.
        SettingsChangedError: the workspace holds faces made with other settings.
    """
    config, options, workspace = config or DetectConfig(), options or RunOptions(), Path(workspace)
    options = replace(options, isolate=options.uses_processes)
    upstream, upstream_provenance = open_upstream(workspace, "extract-frames")
    provenance = Provenance(STAGE, ROW_FORMAT, _settings(config), upstream_provenance)
    videos = upstream.read_videos()
    items = _group_frames(upstream, select_videos(videos, options.shard))
    if options.overwrite:  # a detector that cannot be loaded must not cost the existing faces
        _Detection(upstream, StageFolder(workspace / STAGE), config, options).load_detector()
    with enter_stage(workspace, provenance, options) as folder:
        detection = _Detection(upstream, folder, config, options)
        work = StageWork[VideoFrames](folder, provenance, FaceRow, detection.process, detection.load_detector)
        detected = {
            video_id: replace(item, is_detected=True)
            for video_id, item in items.items()
            if item.mask and work.is_finished(video_id) and _lacks_masks(folder.part_path(video_id))
        }
        summary = run_stage(work, videos, items | detected, options, redo=detected, on_progress=on_progress)
    _warn_without_masks(summary)
    return summary


def _settings(config: DetectConfig) -> dict[str, Any]:
    detector = resolve_weights(config.detector, kind="detector")
    settings = settings_of(config, detector=detector.name, detector_sha256=detector.sha256)
    if config.precision == DetectConfig.precision:
        del settings["precision"]  # so that faces made before there was a choice keep their provenance
    if config.min_face_px:
        settings["network_fits_min_face"] = True  # older versions ran the network at full size
    return settings


class _Detection:
    """Processes videos one after another; loads the detector when the first one needs it."""

    def __init__(self, upstream: StageFolder, folder: StageFolder, config: DetectConfig, options: RunOptions) -> None:
        self.upstream = upstream
        self.folder = folder
        self.config = config
        self.options = options
        self._detector: FaceDetector | None = None

    def process(self, video: VideoFrames) -> ItemResult:
        """Rows, crops and masks of one video; its folder of crops appears whole or not at all."""
        if video.is_detected:
            return self._add_masks(video)
        from pipelines.faces.crops import make_face_row
        from pipelines.faces.find import find_faces

        final = self.folder.root / "crops" / video.video_id
        temporary = self.folder.root / "crops" / f".{video.video_id}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        make_folder(temporary.parent)
        temporary.mkdir()
        rows: list[FaceRow] = []
        writes = []
        frames = read_ahead(self._read_frames(video.rows), depth=self.options.batch_size)
        try:
            with ThreadPoolExecutor(1) as pool:
                for face in find_faces(frames, self.load_detector(), margin=self.config.margin):
                    name = f"{face.frame_index:08d}_{face.face_index:02d}{CROP_SUFFIX}"
                    writes.append(pool.submit(write_image, temporary / name, face.aligned.crop))
                    rows.append(make_face_row(face, video.video_id, f"crops/{video.video_id}/{name}"))
            for write in writes:
                write.result()
            rows, note = self._write_masks(video, rows, temporary)
            shutil.rmtree(final, ignore_errors=True)
            if rows:
                temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return ItemResult(rows, status="ok" if rows else "no_face", note=note, folder=final if rows else None)

    def _add_masks(self, video: VideoFrames) -> ItemResult:
        """The rows of the finished part, with masks."""
        folder = self.folder.root / "crops" / video.video_id
        rows = table_to_rows(read_table(self.folder.part_path(video.video_id), FaceRow), FaceRow)
        rows, note = self._write_masks(video, rows, folder)
        return ItemResult(rows, note=note, folder=folder)

    def _write_masks(self, video: VideoFrames, rows: list[FaceRow], folder: Path) -> tuple[list[FaceRow], str | None]:
        """Write the masks of faces into the folder that has their crops.

        Returns:
            The rows that name them, and a note if any face has none.
        """
        from pipelines.faces.crops import mask_path_of
        from pipelines.faces.masks import make_face_masks

        if video.mask is None or not rows:
            return rows, None
        mask_video = Path(video.mask)
        try:
            masks = make_face_masks(rows, video.rows, mask_video, Path(video.path), margin=self.config.margin)
        except InputError as error:
            return rows, f"{WITHOUT_MASKS}{error}; then run detect-faces again"
        for crop_path, content in masks.items():
            (folder / Path(mask_path_of(crop_path)).name).write_bytes(content)
        rows = [replace(row, mask_path=mask_path_of(row.crop_path)) if row.crop_path in masks else row for row in rows]
        lost = len(rows) - len(masks)
        if not lost:
            return rows, None
        cause = f"frames of {mask_video.name} do not decode; copy it again, then run detect-faces --overwrite"
        return rows, f"{lost} of {len(rows)} {WITHOUT_MASKS}{cause}"

    def _read_frames(self, rows: Sequence[FrameRow]) -> Iterator[StoredFrame]:
        for row in rows:
            yield StoredFrame(row.frame_index, row.pts_seconds, read_image(self.upstream.root / row.path))

    def load_detector(self) -> FaceDetector:
        """The detector, loaded once."""
        if self._detector is None:
            from pipelines.faces import detector
            from pipelines.system.device import choose_device

            self._detector = detector.load_detector(
                self.config.detector,
                max_side=self.config.max_side,
                min_score=self.config.min_score,
                min_face_px=self.config.min_face_px,
                device=choose_device(self.options.device),
                batch_size=self.options.batch_size,
                precision=self.config.precision,
            )
        return self._detector


def _lacks_masks(part: Path) -> bool:
    """Whether a finished part has faces and none of them a mask."""
    column = read_table(part, FaceRow).column("mask_path")
    return bool(0 < column.null_count == len(column))


def _warn_without_masks(summary: StageSummary) -> None:
    notes = [f"{video.video_key}: {video.error}" for video in summary.videos if WITHOUT_MASKS in (video.error or "")]
    if notes:
        log.warning(
            "the masks of %s of %s videos cannot be used; the first: %s", len(notes), len(summary.videos), notes[0]
        )


def _group_frames(upstream: StageFolder, videos: Sequence[VideoRow]) -> dict[str, VideoFrames]:
    """The frames of each content, in the order of its first row."""
    by_video: dict[str, list[FrameRow]] = {}
    for row in table_to_rows(read_table(upstream.manifest_path, FrameRow), FrameRow):
        by_video.setdefault(row.video_id, []).append(row)
    ids = dict.fromkeys(video.video_id for video in videos if video.status == "ok")
    missing = [video_id for video_id in ids if video_id not in by_video]
    if missing:
        raise ManifestError(f"{upstream.manifest_path} lacks the frames of {missing[0]}; run extract-frames again")
    mask_of = _masks_of(videos)
    path_of = {video.video_id: video.path for video in reversed(videos)}
    return {
        video_id: VideoFrames(video_id, tuple(by_video[video_id]), path_of[video_id], mask_of.get(video_id))
        for video_id in ids
    }


def _masks_of(videos: Sequence[VideoRow]) -> Mapping[str, str]:
    """The mask video of each content that is not labelled real: the first that one of its rows names."""
    return {video.video_id: video.mask for video in reversed(videos) if video.mask and video.label != "real"}

"""The deepfake detector as one object: loads both networks once, then scores videos, images and RGB arrays."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipelines.checkpoints.preprocessing import cut_input
from pipelines.config import Aggregate, PredictConfig, RunOptions
from pipelines.engines.engine import FaceScores, load_engine
from pipelines.errors import ConfigError, DeepfakeError, InputError, StorageError, UnreadableError, describe_failure
from pipelines.faces.align import Points
from pipelines.faces.crops import landmarks_of
from pipelines.faces.detector import load_detector
from pipelines.faces.find import DecodedFrame, find_faces
from pipelines.records import ScoreRow, rows_to_table
from pipelines.scoring.aggregate import aggregate_video, counted_tracks
from pipelines.scoring.batch import score_each_content, video_path
from pipelines.scoring.forgery_map import describe_map
from pipelines.scoring.settings import Settings, resolve_settings
from pipelines.scoring.video_score import ScoredFace, StoredFaces, VideoScore
from pipelines.system.device import choose_device
from pipelines.system.image_files import read_image
from pipelines.system.prefetch import read_ahead
from pipelines.video import open_video
from pipelines.video.frames import ChosenFrames
from pipelines.video.reader import Frame
from pipelines.workspace.inputs import describe_inputs, find_inputs

if TYPE_CHECKING:
    import pandas as pd

Image = npt.NDArray[np.uint8]
T = TypeVar("T")
log = logging.getLogger(__name__)


class _Found(NamedTuple):
    """A face that is not classified yet."""

    face: ScoredFace
    image: Image
    """The network's input."""
    in_crop: Points
    """Its landmarks (5, 2) in the aligned crop."""
    in_frame: Points
    """The same in the frame."""


class Detector:
    """A loaded checkpoint and face detector.

    detector = Detector()
    detector.score("clip.mp4").fake_probability
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        device: str = "auto",
        batch_size: int = RunOptions.batch_size,
        config: PredictConfig | None = None,
    ) -> None:
        """Load the networks.

        Args:
            checkpoint: registry name or file; None takes the config's, by default the embedded one.
            device: auto, cpu, cuda, cuda:n or mps.
            batch_size: frames per detector batch and faces per classifier batch.
            config: frames per video, threshold and the other settings of `predict`.

        Raises:
            CheckpointError: a file cannot be loaded.
            ConfigError: the device is missing, or the engine is not installed.
        """
        config = config or PredictConfig()
        if checkpoint is not None:
            config = replace(config, checkpoint=str(checkpoint))
        self._load(resolve_settings(config), RunOptions(device=device, batch_size=batch_size))

    @classmethod
    def from_settings(cls, settings: Settings, options: RunOptions) -> Detector:
        """Load the networks for settings that are resolved already; for stored faces, without the face detector."""
        detector = cls.__new__(cls)
        detector._load(settings, options)
        return detector

    def _load(self, settings: Settings, options: RunOptions) -> None:
        self.settings = settings
        self.options = options
        self.contract = settings.contract
        self.batch_size = options.batch_size
        self.device = choose_device(options.device)
        config = settings.config
        self.engine = load_engine(
            config.engine,
            config.precision,
            checkpoint=settings.checkpoint,
            contract=self.contract,
            device=self.device,
        )
        self.face_detector = None
        if settings.faces is None:
            self.face_detector = load_detector(
                settings.detector,
                max_side=self.contract.max_side,
                min_score=self.contract.min_score,
                min_face_px=config.min_face_px,
                device=self.device,
                batch_size=self.batch_size,
                precision=config.precision,
            )

    def score(self, source: str | Path | Image | StoredFaces) -> VideoScore:
        """The score of a video or image file, of an RGB array (H, W, 3) uint8, or of a workspace's stored faces.

        A source that cannot be scored gives a status and an error instead of a probability.

        Raises:
            ConfigError: an array of another shape or type, or a source that this detector was not loaded for.
            StorageError: the disk, not the file, is at fault.
        """
        try:
            if isinstance(source, StoredFaces):
                return self._score_stored(source)
            if isinstance(source, np.ndarray):
                return self._score_array(source)
            return self._score_file(Path(source))
        except (ConfigError, StorageError):
            raise
        except UnreadableError as error:
            return VideoScore("unreadable", error=str(error))
        except DeepfakeError as error:
            return VideoScore("failed", error=str(error))
        except Exception as error:  # one strange file must not end a run of thousands; the traceback goes to the log
            log.exception("scoring %s failed", "an array" if isinstance(source, np.ndarray) else source)
            return VideoScore("failed", error=describe_failure(error))

    def score_many(self, inputs: Sequence[str | Path] | str | Path, *, workers: int = 0) -> pd.DataFrame:
        """A row per video or image with the columns of a score file, in the order of paths.

        Args:
            inputs: files, folders, `.txt` lists or videos manifests, as for `predict`.
            workers: from 2 on, that many processes, each with its own networks; a script then needs
                `if __name__ == "__main__":`.

        Raises:
            ConfigError: no inputs.
        """
        found = find_inputs([inputs] if isinstance(inputs, (str, Path)) else inputs)
        videos = describe_inputs(found.files, with_labels=False)
        options = replace(self.options, workers=workers)
        rows: dict[int, ScoreRow] = {}
        for places, score in score_each_content(videos, video_path, self.settings, options, lambda: self):
            rows |= {place: self.settings.make_row(videos[place], score) for place in places}
        table: pd.DataFrame = rows_to_table([rows[place] for place in sorted(rows)], ScoreRow).to_pandas()
        return table

    def classify(self, inputs: Sequence[Image]) -> list[float]:
        """Fake probabilities of network inputs (S, S, 3) uint8.

        Raises:
            InputError: the network gives something else.
        """
        return self._classify(inputs).probabilities

    def _classify(self, inputs: Sequence[Image]) -> FaceScores:
        scores = self.engine.classify(inputs)
        probabilities, maps = scores
        if len(probabilities) != len(inputs) or not all(0 <= probability <= 1 for probability in probabilities):
            raise InputError("the checkpoint gives no probabilities for these faces; use another one")
        if maps is not None and (len(maps) != len(inputs) or not ((maps >= 0) & (maps <= 1)).all()):
            raise InputError(
                "the checkpoint gives no forgery maps with values in 0..1 for these faces; use another one"
            )
        return scores

    def _score_file(self, path: Path) -> VideoScore:
        with open_video(path, decoder=self.settings.config.decoder) as reader:
            frames = ChosenFrames(reader, path, count=self.contract.frames)
            faces = self._classify_all(self._find(read_ahead(frames, depth=self.batch_size)))
            return self._conclude(faces, frames.num_decoded, frames.note)

    def _score_array(self, image: Image) -> VideoScore:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ConfigError(f"an array must be (H, W, 3) uint8 in RGB order, got {image.shape} {image.dtype}")
        frame = Frame(index=0, pts=0, pts_seconds=0.0, image=np.ascontiguousarray(image))
        return self._conclude(self._classify_all(self._find([frame])), 1, None)

    def _score_stored(self, stored: StoredFaces) -> VideoScore:
        crops = ((row, read_image(stored.folder / row.crop_path)) for row in stored.rows)
        found = (
            _Found(
                ScoredFace.from_row(row),
                cut_input(crop, self.contract),
                landmarks_of(row, "crop_px"),
                landmarks_of(row, "px"),
            )
            for row, crop in crops
        )
        faces = self._classify_all(read_ahead(found, depth=self.batch_size))
        return self._conclude(faces, stored.num_frames, stored.note)

    def _find(self, frames: Iterable[DecodedFrame]) -> Iterator[_Found]:
        """Every face of the frames."""
        if self.face_detector is None:
            raise ConfigError("this detector was loaded for stored faces; load one without a workspace to score files")
        for face in find_faces(frames, self.face_detector, margin=self.contract.margin):
            x0, y0, x1, y1 = (float(value) for value in face.box)
            found = ScoredFace(face.frame_index, face.pts_seconds, face.face_index, face.track, (x0, y0, x1, y1))
            yield _Found(found, cut_input(face.aligned.crop, self.contract), face.aligned.landmarks, face.landmarks)

    def _classify_all(self, faces: Iterable[_Found]) -> list[ScoredFace]:
        """The faces with their probabilities and forgery maps; at most one batch of inputs is held."""
        scored: list[ScoredFace] = []
        for batch in in_batches(faces, self.batch_size):
            probabilities, maps = self._classify([found.image for found in batch])
            for number, found in enumerate(batch):
                forgery = (
                    None if maps is None else describe_map(maps[number], self.contract, found.in_crop, found.in_frame)
                )
                scored.append(replace(found.face, fake_probability=probabilities[number], forgery_map=forgery))
        return scored

    def _conclude(self, faces: list[ScoredFace], num_frames: int, note: str | None) -> VideoScore:
        """From the faces to the video: aggregated, calibrated, judged."""
        tracks = [face.track for face in faces]
        score = VideoScore("no_face", None, None, num_frames, len(counted_tracks(tracks)), faces, note)
        if num_frames < self.settings.config.min_frames:
            frames = "1 frame" if num_frames == 1 else f"{num_frames} frames"
            error = f"{frames} decoded, fewer than --min-frames {self.settings.config.min_frames}"
            return replace(score, status="too_few_frames", error=error)
        if not faces:
            return score
        method: Aggregate = self.contract.aggregate  # type: ignore[assignment]
        aggregated = aggregate_video([face.fake_probability for face in faces], tracks, method)
        probability = self.settings.calibrate(aggregated)
        return replace(score, status="ok", fake_probability=probability, verdict=self.settings.judge(probability))


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch

"""`predict`: from videos, images or a workspace of faces to fake probabilities."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.config import PredictConfig, RunOptions
from pipelines.errors import ConfigError
from pipelines.records import FINISHED, FaceRow, ScoreRow, VideoRow, table_to_rows
from pipelines.scoring.jobs import CropsJob, Job, Scoring, VideoJob
from pipelines.scoring.score_files import Journal, check_score_path, finished_scores, write_scores
from pipelines.scoring.settings import Settings, resolve_settings
from pipelines.scoring.shard_sidecar import remove_note, write_note
from pipelines.scoring.video_score import VideoScore, write_details
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.inputs import describe_inputs, find_inputs
from pipelines.workspace.manifest import Provenance, read_note, read_table
from pipelines.workspace.shards import Share, select_videos

TASK = "predict"
DETAILS_FORMAT = 2
log = logging.getLogger(__name__)
RowCallback = Callable[[ScoreRow], None]


@dataclass(frozen=True)
class PredictSummary:
    """What a run ended with."""

    rows: list[ScoreRow]
    reused: int
    """Rows that an earlier run with the same settings had finished."""
    weights: str
    """Which weights the scores come from: name and first digits of the digest of classifier and face detector."""
    num_ignored: int = 0
    """Files in the named folders that are neither video nor image."""

    @property
    def failures(self) -> list[ScoreRow]:
        return [row for row in self.rows if row.status not in FINISHED]


def predict(
    inputs: Sequence[str | Path] | str | Path,
    config: PredictConfig | None = None,
    options: RunOptions | None = None,
    *,
    splits: Sequence[str] = (),
    output: Path | None = None,
    excel_safe: bool = False,
    details: Path | None = None,
    on_row: RowCallback = lambda _row: None,
    on_progress: ProgressCallback = ignore_progress,
) -> PredictSummary:
    """Score videos and images: decode, detect, align, classify and aggregate in memory.

    With a shard in the options only its slice is scored; beside the output lies a note then, for `merge_scores`.

    Args:
        inputs: files, folders, `.txt` lists or videos manifests.
        splits: of a videos manifest, take only these.
        output: where the rows go (.csv, .parquet or .json). An interrupted run with the same output and settings goes on.
        excel_safe: of a .csv, put an apostrophe before text that a spreadsheet would take for a formula.
        details: folder for one Parquet file per video with a row per frame and face.
        on_row: called with each row as soon as it and all before it are known.

    Raises:
        ConfigError: wrong settings, no inputs, or an output of other settings.
        CheckpointError: checkpoint or detector can not be loaded.
        StorageError: the output could not be written.
    """
    config, options = config or PredictConfig(), options or RunOptions()
    check_score_path(output, excel_safe=excel_safe)
    settings = resolve_settings(config)
    found = find_inputs([inputs] if isinstance(inputs, (str, Path)) else inputs, splits=splits)
    videos = describe_inputs(found.files, with_labels=False)
    batch = _Batch(settings, options, output, excel_safe, details, on_row, on_progress)
    summary = batch.run(videos, lambda video: VideoJob(Path(video.path)))
    return replace(summary, num_ignored=found.num_ignored)


def predict_faces(
    workspace: Path | str,
    config: PredictConfig | None = None,
    options: RunOptions | None = None,
    *,
    splits: Sequence[str] = (),
    output: Path | None = None,
    excel_safe: bool = False,
    details: Path | None = None,
    on_row: RowCallback = lambda _row: None,
    on_progress: ProgressCallback = ignore_progress,
) -> PredictSummary:
    """Score the faces of a workspace's `detect-faces` stage; arguments as for `predict`.

    Raises:
        ManifestError: no finished stage, or faces of another geometry than the checkpoint's.
    """
    config, options = config or PredictConfig(), options or RunOptions()
    check_score_path(output, excel_safe=excel_safe)
    _refuse_decoding_settings(config)
    folder, provenance = open_upstream(Path(workspace), "detect-faces")
    settings = resolve_settings(config, provenance)
    faces: dict[str, list[FaceRow]] = {}
    for row in table_to_rows(read_table(folder.manifest_path, FaceRow), FaceRow):
        faces.setdefault(row.video_id, []).append(row)
    num_frames = _count_frames(Path(workspace), provenance, faces)

    def make_job(video: VideoRow) -> CropsJob:
        rows = tuple(faces.get(video.video_id, ()))
        return CropsJob(Path(video.path), folder.root, rows, num_frames.get(video.video_id, 0), video.error)

    videos = folder.read_videos_of(splits)
    return _Batch(settings, options, output, excel_safe, details, on_row, on_progress).run(videos, make_job)


@dataclass
class _Batch:
    """One run over videos: rows, journal, output."""

    settings: Settings
    options: RunOptions
    output: Path | None
    excel_safe: bool
    details: Path | None
    on_row: RowCallback
    on_progress: ProgressCallback

    def run(self, videos: Sequence[VideoRow], make_job: Callable[[VideoRow], Job]) -> PredictSummary:
        own = select_videos(videos, self.options.shard)
        record = json.dumps(self.settings.to_record(), sort_keys=True)
        log.debug("predict: %s", record)
        if self.output is None:
            return self._score_all(own, make_job, {}, journal=None)
        journal = Journal.beside(self.output, self.settings.sha256)
        inputs = {name for video in own for name in (video.path, video.sha256)}
        with journal:
            if self.options.overwrite:
                journal.discard()
            finished = {} if self.options.overwrite else finished_scores(self.output, journal, inputs)
            summary = self._score_all(own, make_job, finished, journal)
            write_scores(self.output, summary.rows, excel_safe=self.excel_safe, record=record)
            self._note_shard(self.output, videos, record)
            journal.finish()
        return summary

    def _note_shard(self, output: Path, videos: Sequence[VideoRow], record: str) -> None:
        """Say beside a shard's output what it is a part of."""
        if self.options.shard is None:
            remove_note(output)
            return
        share, model = Share.of(self.options.shard, videos), self.settings.checkpoint.sha256
        write_note(output, share, model_sha256=model, settings_sha256=self.settings.sha256, record=record)

    def _score_all(
        self,
        videos: Sequence[VideoRow],
        make_job: Callable[[VideoRow], Job],
        finished: dict[str, ScoreRow],
        journal: Journal | None,
    ) -> PredictSummary:
        self.on_progress(Progress(TASK, 0, len(videos), "video"))
        known = {digest: row for digest, row in finished.items() if not self.details or self._has_details(digest)}
        rows = _OrderedRows(len(videos), self.on_row)
        reused = 0

        def done(place: int, row: ScoreRow) -> None:
            rows.add(place, replace(row, video=videos[place].path, video_key=videos[place].video_key))
            self.on_progress(Progress(TASK, rows.num_known, len(videos), "video"))

        places: dict[str, deque[int]] = {}
        """Of each content that is not known yet: it may be there more than once."""
        for place, video in enumerate(videos):
            if video.sha256 and video.sha256 in known:
                done(place, known[video.sha256])
                reused += 1
            elif video.status not in ("ok", "no_face"):
                done(place, self._keep(video, VideoScore(status=video.status, error=video.error), journal))
            else:
                places.setdefault(video.sha256, deque()).append(place)
        scoring = Scoring(self.settings, self.options)
        try:
            while places:
                contents = list(places)
                jobs = [make_job(videos[places[content][0]]) for content in contents]
                for index, score in scoring.run(jobs):
                    waiting = places[contents[index]]
                    row = self._keep(videos[waiting[0]], score, journal)
                    done(waiting.popleft(), row)
                    while waiting and row.status != "unreadable":
                        done(waiting.popleft(), row)
                # a copy of what could not be read may be readable where it lies
                places = {content: waiting for content, waiting in places.items() if waiting}
        except BaseException:
            rows.tell_all()
            raise
        return PredictSummary(rows.in_order(), reused, self.settings.describe_weights())

    def _keep(self, video: VideoRow, score: VideoScore, journal: Journal | None) -> ScoreRow:
        """The row of one video, whatever became of it, once it can not be lost any more."""
        if self.details and score.status in FINISHED:
            provenance, notes = self.settings.to_provenance(TASK, DETAILS_FORMAT), self._notes()
            write_details(self._details_path(video.sha256), video, score.faces, provenance, notes)
        row = self._make_row(video, score)
        if journal:
            journal.append(row)
        return row

    def _make_row(self, video: VideoRow, score: VideoScore) -> ScoreRow:
        settings, verdict = self.settings, None
        status, error, probability = score.status, score.error, score.fake_probability
        if status in ("ok", "no_face") and score.num_frames < settings.config.min_frames:
            status, probability = "too_few_frames", None
            error = f"{score.num_frames} frames decoded, fewer than --min-frames {settings.config.min_frames}"
        if probability is not None:
            probability = settings.calibrate(probability)
            verdict = settings.judge(probability)
        return ScoreRow(
            video=video.path,
            video_key=video.video_key,
            sha256=video.sha256,
            status=status,
            fake_probability=probability,
            verdict=verdict,
            threshold=settings.contract.threshold,
            frames=score.num_frames,
            faces=len(score.faces),
            tracks=score.num_tracks,
            model=settings.checkpoint.name,
            model_sha256=settings.checkpoint.sha256,
            settings_sha256=settings.sha256,
            error=error,
        )

    def _notes(self) -> dict[str, str]:
        """What a reader of the details needs to come from the faces' probabilities to the row's."""
        notes = {"settings_sha256": self.settings.sha256, "threshold": str(self.settings.contract.threshold)}
        if self.settings.calibration:
            notes["calibration"] = json.dumps(self.settings.calibration.to_json())
        return notes

    def _has_details(self, sha256: str) -> bool:
        path = self._details_path(sha256)
        return path.is_file() and read_note(path, "settings_sha256") == self.settings.sha256

    def _details_path(self, sha256: str) -> Path:
        if self.details is None:
            raise ValueError("no folder for details")
        return self.details / f"{sha256[:16]}.parquet"


class _OrderedRows:
    """Rows that become known in any order, told in their own."""

    def __init__(self, count: int, on_row: RowCallback) -> None:
        self._rows: list[ScoreRow | None] = [None] * count
        self._on_row = on_row
        self._num_told = 0
        self.num_known = 0

    def add(self, place: int, row: ScoreRow) -> None:
        self._rows[place] = row
        self.num_known += 1
        while self._num_told < len(self._rows) and (following := self._rows[self._num_told]) is not None:
            self._on_row(following)
            self._num_told += 1

    def tell_all(self) -> None:
        """The rows behind one that will not come."""
        for row in self._rows[self._num_told :]:
            if row is not None:
                self._on_row(row)
        self._num_told = len(self._rows)

    def in_order(self) -> list[ScoreRow]:
        """All rows.

        Raises:
            RuntimeError: one is missing, which would be a video lost without a word.
        """
        rows = [row for row in self._rows if row is not None]
        if len(rows) != len(self._rows):
            raise RuntimeError(f"{len(self._rows) - len(rows)} of {len(self._rows)} videos have no row")
        return rows


def _refuse_decoding_settings(config: PredictConfig) -> None:
    """Frames and faces are there already: what chose them can not be chosen again."""
    for name in ("frames", "detector", "max_side", "min_score", "min_face_px", "decoder"):
        if getattr(config, name) != getattr(PredictConfig, name):
            option = name.replace("_", "-")
            raise ConfigError(
                f"--{option} has no effect on the faces of a workspace; give it to the stage that makes them"
            )


def _count_frames(workspace: Path, provenance: Provenance, faces: dict[str, list[FaceRow]]) -> dict[str, int]:
    """Decoded frames per video: the extracted ones; imported pictures are a frame each."""
    if provenance.stage == "import-faces":
        return {video_id: len({row.frame_index for row in rows}) for video_id, rows in faces.items()}
    return {row.video_id: row.rows for row in StageFolder(workspace / "extract-frames").read_videos()}

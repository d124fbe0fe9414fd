"""`predict`: from videos, images or a workspace's faces to fake probabilities."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.config import PredictConfig, RunOptions
from pipelines.errors import ConfigError
from pipelines.records import FINISHED, FaceRow, ScoreRow, VideoRow, table_to_rows
from pipelines.scoring.batch import Source, score_each_content, video_path
from pipelines.scoring.score_files import Journal, check_score_path, finished_scores, write_scores
from pipelines.scoring.settings import Settings, resolve_settings
from pipelines.scoring.shard_sidecar import remove_note, write_note
from pipelines.scoring.video_score import StoredFaces, VideoScore, write_details
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.inputs import describe_inputs, find_inputs
from pipelines.workspace.manifest import Provenance, read_note, read_table
from pipelines.workspace.shards import Share, select_videos

TASK = "predict"
DETAILS_FORMAT = 3
log = logging.getLogger(__name__)
RowCallback = Callable[[ScoreRow], None]


@dataclass(frozen=True)
class PredictSummary:
    """The result of a run."""

    rows: list[ScoreRow]
    reused: int
    """Rows that an earlier run with the same settings had finished."""
    weights: str
    """Name and first digits of the digest of the classifier and of the face detector."""
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
    output: str | Path | None = None,
    excel_safe: bool = False,
    details: str | Path | None = None,
    on_row: RowCallback = lambda _row: None,
    on_progress: ProgressCallback = ignore_progress,
) -> PredictSummary:
    """Score videos and images: decode, detect, align, classify and aggregate in memory.

    With a shard in the options, only its slice is scored, and a note for `merge_scores` is written next to the output.

    Args:
        inputs: files, folders, `.txt` lists or videos manifests.
        splits: take only these splits of a videos manifest.
        output: file for the rows (.csv, .parquet or .json). An interrupted run with the same output and settings resumes.
        excel_safe: in a .csv, put an apostrophe before text that a spreadsheet would take for a formula.
        details: folder for one Parquet file per video with a row per frame and face.
        on_row: called with each row as soon as it and all rows before it are known.

    Raises:
        ConfigError: wrong settings, no inputs, or an output of other settings.
        CheckpointError: checkpoint or detector cannot be loaded.
        StorageError: the output could not be written.
    """
    config, options = config or PredictConfig(), options or RunOptions()
    output, details = check_score_path(output, excel_safe=excel_safe), None if details is None else Path(details)
    settings = resolve_settings(config)
    found = find_inputs([inputs] if isinstance(inputs, (str, Path)) else inputs, splits=splits)
    videos = describe_inputs(found.files, with_labels=False)
    batch = _Batch(settings, options, output, excel_safe, details, on_row, on_progress)
    summary = batch.run(videos, video_path)
    return replace(summary, num_ignored=found.num_ignored)


def predict_faces(
    workspace: Path | str,
    config: PredictConfig | None = None,
    options: RunOptions | None = None,
    *,
    splits: Sequence[str] = (),
    output: str | Path | None = None,
    excel_safe: bool = False,
    details: str | Path | None = None,
    on_row: RowCallback = lambda _row: None,
    on_progress: ProgressCallback = ignore_progress,
) -> PredictSummary:
    """Score the faces of a workspace's `detect-faces` stage; arguments as for `predict`.

    Raises:
        ManifestError: no finished stage, or faces of another geometry than the checkpoint's.
    """
    config, options = config or PredictConfig(), options or RunOptions()
    output, details = check_score_path(output, excel_safe=excel_safe), None if details is None else Path(details)
    _refuse_decoding_settings(config)
    folder, provenance = open_upstream(Path(workspace), "detect-faces")
    settings = resolve_settings(config, provenance)
    faces: dict[str, list[FaceRow]] = {}
    for row in table_to_rows(read_table(folder.manifest_path, FaceRow), FaceRow):
        faces.setdefault(row.video_id, []).append(row)
    num_frames = _count_frames(Path(workspace), provenance, faces)

    def stored_faces(video: VideoRow) -> StoredFaces:
        rows = tuple(faces.get(video.video_id, ()))
        return StoredFaces(Path(video.path), folder.root, rows, num_frames.get(video.video_id, 0), video.error)

    batch = _Batch(settings, options, output, excel_safe, details, on_row, on_progress)
    return batch.run(folder.read_videos_of(splits), stored_faces)


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

    def run(self, videos: Sequence[VideoRow], make_source: Callable[[VideoRow], Source]) -> PredictSummary:
        own = select_videos(videos, self.options.shard)
        record = json.dumps(self.settings.to_record(), sort_keys=True)
        log.debug("predict: %s", record)
        if self.output is None:
            return self._score(own, make_source, {}, journal=None)
        journal = Journal.for_output(self.output, self.settings.sha256)
        inputs = {name for video in own for name in (video.path, video.sha256)}
        with journal:
            if self.options.overwrite:
                journal.discard()
            finished = {} if self.options.overwrite else finished_scores(self.output, journal, inputs)
            summary = self._score(own, make_source, finished, journal)
            write_scores(self.output, summary.rows, excel_safe=self.excel_safe, record=record)
            self._note_shard(self.output, videos, record)
            journal.finish()
        return summary

    def _note_shard(self, output: Path, videos: Sequence[VideoRow], record: str) -> None:
        """Write the note of a shard next to its output, or remove that of an earlier shard."""
        if self.options.shard is None:
            remove_note(output)
            return
        share, model = Share.of(self.options.shard, videos), self.settings.checkpoint.sha256
        write_note(output, share, model_sha256=model, settings_sha256=self.settings.sha256, record=record)

    def _score(
        self,
        videos: Sequence[VideoRow],
        make_source: Callable[[VideoRow], Source],
        finished: dict[str, ScoreRow],
        journal: Journal | None,
    ) -> PredictSummary:
        self.on_progress(Progress(TASK, 0, len(videos), "video"))
        known = {digest: row for digest, row in finished.items() if not self.details or self._has_details(digest)}
        rows = _OrderedRows(len(videos), self.on_row)
        places_left = []

        def done(place: int, row: ScoreRow) -> None:
            rows.add(place, replace(row, video=videos[place].path, video_key=videos[place].video_key))
            self.on_progress(Progress(TASK, rows.num_known, len(videos), "video"))

        for place, video in enumerate(videos):
            if video.sha256 and video.sha256 in known:
                done(place, known[video.sha256])
            else:
                places_left.append(place)
        left = [videos[place] for place in places_left]
        try:
            with closing(score_each_content(left, make_source, self.settings, self.options)) as scores:
                for indices, score in scores:
                    row = self._keep(left[indices[0]], score, journal)
                    for index in indices:
                        done(places_left[index], row)
        except BaseException:
            rows.hand_over_all()
            raise
        return PredictSummary(rows.in_order(), len(videos) - len(left), self.settings.describe_weights())

    def _keep(self, video: VideoRow, score: VideoScore, journal: Journal | None) -> ScoreRow:
        """Write the details and the journal entry of one video; its row."""
        if self.details and score.status in FINISHED:
            provenance, notes = self.settings.to_provenance(TASK, DETAILS_FORMAT), self._notes()
            write_details(self._details_path(video.sha256), video, score.faces, provenance, notes)
        row = self.settings.make_row(video, score)
        if journal:
            journal.append(row)
        return row

    def _notes(self) -> dict[str, str]:
        """What turns the faces' probabilities in the details into the video's."""
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
    """Rows that become known in any order, handed over in the order of the videos."""

    def __init__(self, count: int, on_row: RowCallback) -> None:
        self._rows: list[ScoreRow | None] = [None] * count
        self._on_row = on_row
        self._num_handed_over = 0
        self.num_known = 0

    def add(self, place: int, row: ScoreRow) -> None:
        self._rows[place] = row
        self.num_known += 1
        while self._num_handed_over < len(self._rows) and (following := self._rows[self._num_handed_over]) is not None:
            self._on_row(following)
            self._num_handed_over += 1

    def hand_over_all(self) -> None:
        """Hand over the rows that wait for one that will not come."""
        for row in self._rows[self._num_handed_over :]:
            if row is not None:
                self._on_row(row)
        self._num_handed_over = len(self._rows)

    def in_order(self) -> list[ScoreRow]:
        """All rows.

        Raises:
            RuntimeError: one is missing, so a video would be lost silently.
        """
        rows = [row for row in self._rows if row is not None]
        if len(rows) != len(self._rows):
            raise RuntimeError(f"{len(self._rows) - len(rows)} of {len(self._rows)} videos have no row")
        return rows


def _refuse_decoding_settings(config: PredictConfig) -> None:
    """Refuse settings that have no effect because frames and faces exist already."""
    for name in ("frames", "detector", "max_side", "min_score", "min_face_px", "decoder"):
        if getattr(config, name) != getattr(PredictConfig, name):
            option = name.replace("_", "-")
            raise ConfigError(
                f"--{option} has no effect on the faces of a workspace; give it to the stage that makes them"
            )


def _count_frames(workspace: Path, provenance: Provenance, faces: dict[str, list[FaceRow]]) -> dict[str, int]:
    """Decoded frames per video: those extracted; each imported picture is a frame."""
    if provenance.stage == "import-faces":
        return {video_id: len({row.frame_index for row in rows}) for video_id, rows in faces.items()}
    return {row.video_id: row.rows for row in StageFolder(workspace / "extract-frames").read_videos()}

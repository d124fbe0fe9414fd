"""`evaluate`: from scores, details, workspaces or face crops to a report.

What has no scores yet is scored here, with the stages that `predict` and a workspace are made of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.checkpoints.checkpoint import read_header
from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.config import (
    DetectConfig,
    EvaluateConfig,
    ExtractConfig,
    ImportConfig,
    PredictConfig,
    RunOptions,
    refuse_shard,
)
from pipelines.errors import CheckpointError, ConfigError, DatasetError, InputError
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.labels import choose_split, describe_row, labels_from_folders, read_labelled
from pipelines.evaluation.localisation import STATES, Example, FoundFaces
from pipelines.evaluation.perturbations import Perturbation, choose_perturbations, name_condition, perturb_video
from pipelines.evaluation.reading import SourceKind, join_rows, kind_of, read_details, read_score_file
from pipelines.evaluation.report import Report, check_folder, check_report_path, write_report
from pipelines.evaluation.scores import RawScores, ScoredVideos, Source
from pipelines.records import ScoreRow, VideoRow
from pipelines.stages.detect_faces import detect_faces
from pipelines.stages.extract_frames import extract_frames
from pipelines.stages.import_faces import import_faces
from pipelines.stages.predict import predict_faces
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.manifest import read_provenance

if TYPE_CHECKING:
    from pipelines.evaluation.forgery_maps import Locator

log = logging.getLogger(__name__)
SCORED_HERE: tuple[SourceKind, ...] = ("workspace", "crops")
VIDEOS_AT_ONCE = 32
"""How many perturbed videos, with their frames, are on disk at a time."""
MASK_REMEDY = (
    "name the fakes' mask videos or originals in the labels and run the stages again, or import faces with masks"
)
T = TypeVar("T")


def evaluate(
    sources: Sequence[Path | str] | Path | str,
    config: EvaluateConfig | None = None,
    options: RunOptions | None = None,
    *,
    labels: Path | str | None = None,
    outputs: Sequence[Path | str] | Path | str = (),
    plots: Path | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> Report:
    """Measure scores against labels, per video and per frame.

    Args:
        sources: score files, `--details` folders, workspaces or Parquet files of face crops. Several sources give a table
            by dataset; a source whose labels name no dataset is listed under its own name.
        labels: CSV `video,label[,split,…]` or a videos manifest. Default: the workspace's own labels, else folders named
            `real` and `fake` in the paths of the scored videos.
        outputs: reports to write, .json or .md.
        plots: folder for roc.png, scores.png, calibration.png and, with perturbations, robustness.png, with localisation
            localisation.png.

    Raises:
        ConfigError: invalid settings, or a source of unknown kind.
        DatasetError: scores that match no label, or match several; with localisation, no mask of a fake face.
    """
    config, options = config or EvaluateConfig(), options or RunOptions()
    refuse_shard(options, "evaluate")
    paths, reports = _as_paths(sources), _as_paths(outputs)
    for path in reports:
        check_report_path(path)
    if plots:
        check_folder(Path(plots))
    _refuse_ineffective_options(paths, config)
    if config.perturb:
        _check_perturbations(paths, config)
    if config.checkpoint == EvaluateConfig.checkpoint:
        _name_trained_checkpoints(paths)
    locator = _load_locator(paths, config, options) if config.localisation else None
    examples: Sequence[Example] = ()
    loader = Loader(
        predict=PredictConfig(checkpoint=config.checkpoint, aggregate=config.aggregate),
        options=options,
        labels=Path(labels) if labels else None,
        split=config.split,
        default_split="test",
        on_progress=on_progress,
    )
    with ExitStack() as stack:
        opened = [loader.open(path, stack) for path in paths]
        evaluator = Evaluator(config, opened)
        report, scored, frames = evaluator.measure()
        for path in reports:
            write_report(report, path)
        if locator:
            located = _locate(opened, scored.videos, locator, options, on_progress)
            size_px, examples = locator.contract.input_size, located.examples
            report = evaluator.with_localisation(report, scored, located, locator.kind, size_px)
            for path in reports:
                write_report(report, path)
        if config.perturb:
            scores = perturbed_scores(opened, config, options, on_progress=on_progress)
            report = replace(report, robustness=[evaluator.measure_auc(change, raws) for change, raws in scores])
            for path in reports:
                write_report(report, path)
    if plots:
        from pipelines.evaluation.plots import draw_report

        draw_report(Path(plots), report, scored, frames, examples)
    return report


@dataclass(frozen=True)
class Loader:
    """Opens sources; `calibrate` uses it too."""

    predict: PredictConfig
    """How to score what has no scores yet."""
    options: RunOptions
    labels: Path | None
    split: str | None
    default_split: str
    """Used if `split` is None and the labels have this split."""
    on_progress: ProgressCallback

    def open(self, path: Path, stack: ExitStack) -> Source:
        """Read a source, or score it; a temporary workspace lasts as long as the stack.

        Raises:
            ConfigError: a source of unknown kind.
            DatasetError: no labels.
        """
        kind = kind_of(path)
        if kind == "crops":
            return self._score(stack.enter_context(_imported(path, self.options, self.on_progress)), named=path)
        if kind == "workspace":
            return self._score(path, named=path)
        raw = read_details(path) if kind == "details" else read_score_file(path)
        if self.labels:
            raw = replace(raw, note=None)  # the labels say which videos there are
        labelled = read_labelled(self.labels) if self.labels else labels_from_folders(raw)
        return Source(raw, labelled, choose_split(labelled, self.split, self.default_split))

    def _score(self, workspace: Path, *, named: Path) -> Source:
        folder, _ = open_upstream(workspace, "detect-faces")
        videos = folder.read_videos()
        own = [describe_row(video) for video in videos]
        if not self.labels and not any(row.about.label for row in own):
            raise ConfigError(f"the videos of {workspace} have no labels; pass --labels with a CSV (video,label)")
        labelled = read_labelled(self.labels) if self.labels else own
        split = choose_split(labelled, self.split, self.default_split)
        # labels from elsewhere may name other splits than the workspace does
        splits = () if split == "all" or self.labels else (split,)
        raw = _score_workspace(workspace, self.predict, self.options, splits=splits, on_progress=self.on_progress)
        return Source(replace(raw, path=named.absolute().as_posix()), labelled, split, workspace, splits)


def perturbed_scores(
    sources: Sequence[Source], config: EvaluateConfig, options: RunOptions, *, on_progress: ProgressCallback
) -> Iterator[tuple[Perturbation | None, list[RawScores]]]:
    """New scores of all sources for each perturbation; the first ones are unperturbed."""
    chosen = choose_perturbations(config.perturbations)
    if config.perturb == "videos":
        for perturbation in [None, *chosen]:
            yield perturbation, [_score_videos(each, perturbation, config, options, on_progress) for each in sources]
        return
    from pipelines.evaluation.robustness import score_perturbed_faces

    scores = [score_perturbed_faces(each, chosen, config, options, on_progress=on_progress) for each in sources]
    for perturbation in [None, *chosen]:
        yield perturbation, [found[name_condition(perturbation)] for found in scores]


def _load_locator(paths: Sequence[Path], config: EvaluateConfig, options: RunOptions) -> Locator:
    """The network of the maps. Refuses, before any work is done, a network without maps and workspaces without masks.

    Raises:
        ConfigError: one of these.
    """
    from pipelines.evaluation.forgery_maps import Locator, has_masks

    if all(kind_of(path) == "workspace" and not has_masks(path) for path in paths):
        raise ConfigError(f"no face of {paths[0]} has a mask to compare with; {MASK_REMEDY}")
    return Locator(config.checkpoint, options)


def _locate(
    sources: Sequence[Source],
    videos: ScoredVideos,
    locator: Locator,
    options: RunOptions,
    on_progress: ProgressCallback,
) -> FoundFaces:
    """The maps of all faces of the measured videos, compared with their masks.

    Raises:
        DatasetError: no fake face has a usable mask.
    """
    from pipelines.evaluation.forgery_maps import locate_faces

    labels = {str(digest)[:16]: int(label) for digest, label in zip(videos.digests, videos.labels, strict=True)}
    found = FoundFaces()
    for source in sources:
        assert source.workspace is not None
        locate_faces(source.workspace, labels, locator, options, found, on_progress=on_progress)
    if not found.fakes:
        counts = [f"{found.masks[state]} {what}" for state, what in STATES.items() if found.masks[state]]
        raise DatasetError(
            f"no fake face has a mask to compare with ({', '.join(counts) or 'there is no fake face'}); {MASK_REMEDY}"
        )
    return found


def _as_paths(paths: Sequence[Path | str] | Path | str) -> list[Path]:
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def _refuse_ineffective_options(paths: Sequence[Path], config: EvaluateConfig) -> None:
    """Refuse options that have no effect on the sources.

    Raises:
        ConfigError: no sources, or an option needs faces and a source holds only scores of videos.
    """
    if not paths:
        raise ConfigError("nothing to measure: pass scores, details, a workspace or a Parquet of crops")
    if config.perturbations and not config.perturb:
        raise ConfigError("--perturbations has no effect without --perturb; pass --perturb faces or --perturb videos")
    kinds = {path: kind_of(path) for path in paths}
    for path, kind in kinds.items():
        for name in ("protocol", "aggregate"):
            if kind == "scores" and getattr(config, name):
                raise ConfigError(
                    f"--{name} needs the faces of every frame, and {path} holds scores of videos only; "
                    "pass a workspace, or the folder of: deepfake predict --details"
                )
        if config.localisation and kind not in SCORED_HERE:
            raise ConfigError(
                f"--localisation needs the faces themselves, and {path} holds only their scores; "
                "pass a workspace or a Parquet of crops"
            )
        if config.perturb and kind not in SCORED_HERE:
            raise ConfigError(
                f"--perturb scores again, which {path} does not allow; pass a workspace or a Parquet of crops"
            )
    if config.checkpoint != EvaluateConfig.checkpoint and not set(SCORED_HERE) & set(kinds.values()):
        raise ConfigError(f"--checkpoint has no effect on {paths[0]}: it is scored already")


def _check_perturbations(workspaces: Sequence[Path], config: EvaluateConfig) -> None:
    """Refuse, before any work is done, what cannot be perturbed.

    Raises:
        ConfigError: an unknown perturbation, or --perturb videos where the videos or their face detector are missing.
    """
    choose_perturbations(config.perturbations)
    for path in workspaces if config.perturb == "videos" else ():
        frames = StageFolder(path / "extract-frames")
        if not frames.videos_path.is_file():
            raise ConfigError(
                f"{path} holds faces without their videos; pass --perturb faces, or a workspace of extract-frames"
            )
        videos = [video for video in frames.read_videos() if video.status == "ok"]
        gone = [video.path for video in videos if not Path(video.path).is_file()]
        if gone:
            message = f"{len(gone)} of the {len(videos)} videos of {path} are not where they were, such as {gone[0]}"
            if len(gone) == len(videos):
                raise ConfigError(
                    f"{message}; run this in the folder that extract-frames was run in, or --perturb faces"
                )
            log.warning("%s", message)
        _stage_settings(path, config.checkpoint)


def _name_trained_checkpoints(paths: Sequence[Path]) -> None:
    """Say which checkpoint is measured where others have been trained."""
    for path in paths:
        trained = list(path.glob("train/*/best.safetensors"))
        if trained:
            newest = max(trained, key=lambda file: file.stat().st_mtime)
            log.info(
                "%s: measuring the checkpoint %s; to measure the one trained last, pass: --checkpoint %s",
                path,
                EvaluateConfig.checkpoint,
                newest,
            )


@contextmanager
def _imported(crops: Path, options: RunOptions, on_progress: ProgressCallback) -> Iterator[Path]:
    """A temporary workspace with the faces of a Parquet of crops."""
    with TemporaryDirectory(prefix="deepfake-") as folder:
        workspace = Path(folder) / crops.stem
        import_faces(crops, workspace, ImportConfig(), options, on_progress=on_progress)
        yield workspace


def _score_workspace(
    workspace: Path,
    config: PredictConfig,
    options: RunOptions,
    *,
    splits: Sequence[str] = (),
    on_progress: ProgressCallback,
) -> RawScores:
    """All videos of the workspace with the scores of their faces.

    Raises:
        DatasetError: there is no face to score.
    """
    with TemporaryDirectory(prefix="deepfake-") as folder:
        details = Path(folder)
        summary = predict_faces(workspace, config, options, splits=splits, details=details, on_progress=on_progress)
        if not any(row.faces for row in summary.rows):
            raise DatasetError(
                f"{workspace} has no face that could be scored; look at: deepfake inspect {workspace}/detect-faces"
            )
        raw = join_rows(workspace.resolve().name, summary.rows, read_details(details))
    contract = read_header(resolve_weights(config.checkpoint, kind="checkpoint").path).preprocessing
    return replace(raw, aggregate=config.aggregate or contract.aggregate)


def _score_videos(
    source: Source,
    perturbation: Perturbation | None,
    config: EvaluateConfig,
    options: RunOptions,
    on_progress: ProgressCallback,
) -> RawScores:
    """All videos of a source, perturbed and scored from file to probability by the stages that made the workspace."""
    assert source.workspace is not None
    settings = _stage_settings(source.workspace, config.checkpoint)
    predict = PredictConfig(checkpoint=config.checkpoint, aggregate=config.aggregate)
    wanted = set(source.raw.keys)
    everything = StageFolder(source.workspace / "extract-frames").read_videos()
    videos = [video for video in everything if video.video_key in wanted]
    name, rows = name_condition(perturbation), list[ScoreRow]()
    with TemporaryDirectory(prefix="deepfake-") as folder:
        details = Path(folder) / "details"
        details.mkdir()  # stays empty if no video can be read
        for start in range(0, len(videos), VIDEOS_AT_ONCE):
            with TemporaryDirectory(dir=folder) as temporary:
                row_of: dict[str, VideoRow] = {}
                for number, video in enumerate(videos[start : start + VIDEOS_AT_ONCE]):
                    on_progress(Progress(name, start + number, len(videos), "video"))
                    copy = _write_copy(video, Path(temporary) / f"{number:06d}", perturbation, config.seed)
                    row_of[copy.as_posix()] = video
                work = Path(temporary) / "work"
                extract_frames(list(row_of), work, settings[0], options)
                detect_faces(work, settings[1], options)
                found = {row.video: row for row in predict_faces(work, predict, options, details=details).rows}
                rows += [
                    replace(found[copy], video=video.path, video_key=video.video_key) for copy, video in row_of.items()
                ]
        on_progress(Progress(name, len(videos), len(videos), "video"))
        raw = join_rows(source.raw.name, rows, read_details(details, may_be_empty=True))
    return replace(raw, aggregate=source.raw.aggregate, path=source.raw.path)


def _stage_settings(workspace: Path, checkpoint: str) -> tuple[ExtractConfig, DetectConfig]:
    """The settings that the workspace's frames and faces were made with.

    Raises:
        ConfigError: the face detector cannot be found.
    """
    faces = read_provenance(StageFolder(workspace / "detect-faces").manifest_path)
    frames = faces.upstream.settings if faces.upstream else {}
    detector = _find_detector(workspace, faces.settings, checkpoint)
    return _config_of(ExtractConfig, frames), _config_of(DetectConfig, {**faces.settings, "detector": detector})


def _find_detector(workspace: Path, settings: Mapping[str, Any], checkpoint: str) -> str:
    """The recorded detector; its file goes by its name in the working directory or by what the checkpoint names."""
    contract = read_header(resolve_weights(checkpoint, kind="checkpoint").path).preprocessing
    for name in (settings["detector"], contract.detector):
        try:
            if resolve_weights(name, kind="detector").sha256 == settings["detector_sha256"]:
                return str(name)
        except CheckpointError:
            continue
    raise ConfigError(
        f"the face detector of {workspace}, {settings['detector']} ({settings['detector_sha256'][:12]}), is not here; "
        "run this in the folder that holds the file, or pass --perturb faces"
    )


def _config_of(kind: type[T], settings: Mapping[str, Any]) -> T:
    """Recorded settings as a config; a setting that an old record lacks has its default."""
    return kind(**{field.name: settings[field.name] for field in fields(kind) if field.name in settings})  # type: ignore[arg-type]


def _write_copy(video: VideoRow, target: Path, perturbation: Perturbation | None, seed: int) -> Path:
    """The perturbed video, or a link to the original. A video that cannot be read has no copy, and so no score."""
    source = Path(video.path)
    if perturbation is None:
        link = target.with_suffix(source.suffix)
        link.symlink_to(source.absolute())
        return link
    copy = target.with_suffix(".mp4")
    try:
        perturb_video(source, copy, perturbation, seed)
    except InputError as error:
        log.warning("%s: %s", video.video_key, error)
    return copy

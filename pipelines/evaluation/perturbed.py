"""The sources' faces, or their whole videos, scored again under every perturbation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipelines.config import EvaluateConfig, PredictConfig, RunOptions
from pipelines.errors import ConfigError, InputError
from pipelines.evaluation.loading import Source
from pipelines.evaluation.perturbations import PERTURBATIONS, Perturbation, perturb_video
from pipelines.evaluation.robustness import CLEAN, PerturbedFaces, score_perturbed
from pipelines.evaluation.scoring import join_rows
from pipelines.evaluation.sources import FaceColumns, RawScores, read_details
from pipelines.records import VideoRow
from pipelines.stages.predict import predict
from pipelines.system.progress import Progress, ProgressCallback
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.manifest import read_provenance

log = logging.getLogger(__name__)


def perturbed_scores(
    sources: Sequence[Source], config: EvaluateConfig, options: RunOptions, *, on_progress: ProgressCallback
) -> Iterator[tuple[Perturbation | None, list[RawScores]]]:
    """New scores of all sources, by perturbation; first without one."""
    chosen = choose_perturbations(config.kinds)
    if config.perturb == "videos":
        videos = [_videos_of(source) for source in sources]
        for perturbation in [None, *chosen]:
            pairs = zip(sources, videos, strict=True)
            yield perturbation, [_score_videos(*pair, perturbation, config, options, on_progress) for pair in pairs]
        return
    scores = [_score_faces(source, chosen, config, options, on_progress) for source in sources]
    for perturbation in [None, *chosen]:
        yield perturbation, [found[_name(perturbation)] for found in scores]


def check_perturbations(workspaces: Sequence[Path], config: EvaluateConfig) -> None:
    """Refuse before any work is done what could not be perturbed.

    Raises:
        ConfigError: an unknown kind, or no videos where those are wanted.
    """
    choose_perturbations(config.kinds)
    for path in workspaces if config.perturb == "videos" else ():
        if not _frames_folder(path).videos_path.is_file():
            raise ConfigError(
                f"{path} holds faces without their videos; pass --perturb faces, or a workspace of extract-frames"
            )
        videos = [video for video in _frames_folder(path).read_videos() if video.status == "ok"]
        gone = [video.path for video in videos if not Path(video.path).is_file()]
        if gone:
            told = f"{len(gone)} of the {len(videos)} videos of {path} are not where they were, such as {gone[0]}"
            if len(gone) == len(videos):
                raise ConfigError(f"{told}; run this in the folder that extract-frames was run in, or --perturb faces")
            log.warning("%s", told)


def choose_perturbations(kinds: Sequence[str]) -> list[Perturbation]:
    """Those of the kinds; all if none is named.

    Raises:
        ConfigError: there is no such kind.
    """
    known = list(dict.fromkeys(perturbation.kind for perturbation in PERTURBATIONS))
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise ConfigError(f"unknown perturbation {unknown[0]!r}; known: {', '.join(known)}")
    return [perturbation for perturbation in PERTURBATIONS if not kinds or perturbation.kind in kinds]


def _score_faces(
    source: Source,
    perturbations: Sequence[Perturbation],
    config: EvaluateConfig,
    options: RunOptions,
    on_progress: ProgressCallback,
) -> dict[str, RawScores]:
    assert source.workspace is not None
    found = score_perturbed(
        source.workspace,
        config.checkpoint,
        perturbations,
        options,
        splits=source.scored_splits,
        seed=config.seed,
        on_progress=on_progress,
    )
    return {name: _with_faces(source.raw, faces) for name, faces in found.items()}


def _with_faces(raw: RawScores, faces: PerturbedFaces) -> RawScores:
    """The source's videos with other scores of their faces, not aggregated yet."""
    position: dict[str, int] = {}
    for index, digest in enumerate(raw.digests):
        position.setdefault(digest[:16], index)
    columns = FaceColumns(
        sources=np.array([position[video_id] for video_id in faces.video_ids], dtype=np.int64),
        frames=faces.frames,
        tracks=faces.tracks,
        areas=faces.areas,
        probabilities=faces.probabilities,
    )
    return replace(raw, probabilities=np.full(len(raw.videos), np.nan), faces=columns)


def _videos_of(source: Source) -> list[VideoRow]:
    assert source.workspace is not None
    wanted = set(source.raw.keys)
    return [video for video in _frames_folder(source.workspace).read_videos() if video.video_key in wanted]


def _frames_folder(workspace: Path) -> StageFolder:
    return StageFolder(workspace / "extract-frames")


def _score_videos(
    source: Source,
    videos: Sequence[VideoRow],
    perturbation: Perturbation | None,
    config: EvaluateConfig,
    options: RunOptions,
    on_progress: ProgressCallback,
) -> RawScores:
    """All videos of a source written anew, then scored from file to probability as the workspace was made."""
    settings = _settings_of(source, config)
    name = _name(perturbation)
    with TemporaryDirectory(prefix="deepfake-") as folder:
        paths = []
        for number, video in enumerate(videos):
            on_progress(Progress(name, number, len(videos), "video"))
            paths.append(_rewrite(video, Path(folder) / f"{number:06d}.mp4", perturbation, config.seed))
        on_progress(Progress(name, len(videos), len(videos), "video"))
        details = Path(folder) / "details"
        details.mkdir()  # stays empty where no video can be read
        summary = predict(paths, settings, options, details=details, on_progress=on_progress)
        row_of = {row.video: row for row in summary.rows}
        rows = [
            replace(row_of[path.as_posix()], video=video.path, video_key=video.video_key)
            for path, video in zip(paths, videos, strict=True)
        ]
        raw = join_rows(source.raw.name, rows, read_details(details, may_be_empty=True))
    return replace(raw, aggregate=source.raw.aggregate, path=source.raw.path)


def _settings_of(source: Source, config: EvaluateConfig) -> PredictConfig:
    """As the workspace's frames and faces were made, as far as `predict` can do the same."""
    assert source.workspace is not None
    faces = read_provenance(StageFolder(source.workspace / "detect-faces").manifest_path)
    frames = faces.upstream.settings if faces.upstream else {}
    return PredictConfig(
        checkpoint=config.checkpoint,
        aggregate=config.aggregate,
        frames=None if frames.get("fps") else frames.get("frames"),
        max_side=faces.settings["max_side"],
        min_score=faces.settings["min_score"],
    )


def _name(perturbation: Perturbation | None) -> str:
    return perturbation.name if perturbation else CLEAN


def _rewrite(video: VideoRow, target: Path, perturbation: Perturbation | None, seed: int) -> Path:
    """The perturbed copy; the original where nothing is changed. What can not be read has no copy, and so no score."""
    source = Path(video.path)
    if perturbation is None:
        return source
    try:
        perturb_video(source, target, perturbation, seed)
    except InputError as error:
        log.warning("%s: %s", video.video_key, error)
    return target

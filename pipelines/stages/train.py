"""Stage `train`: trains a detector on the faces of a `detect-faces` manifest."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.config import refuse_shard
from pipelines.data.faces import Face, default_cache_bytes, preview_self_blends
from pipelines.data.forgery_masks import find_originals
from pipelines.data.groups import group_videos
from pipelines.data.leaks import refuse_leaks
from pipelines.data.split_assignment import VideosBySplit, is_usable, split_videos
from pipelines.errors import ConfigError, DatasetError, SettingsChangedError
from pipelines.records import LABELS, LANDMARK_NAMES, EpochRow, FaceRow, VideoRow, rows_to_table
from pipelines.system.atomic_files import remove_for_good, replace_atomically, storage_error
from pipelines.system.image_files import encode_image, join_images
from pipelines.system.progress import Progress, ProgressCallback, ignore_progress
from pipelines.training.config import DenseSupervisionConfig, TrainConfig, TrainOptions, TrainPrecision
from pipelines.training.settings import list_settings
from pipelines.workspace.folder import StageFolder, open_upstream
from pipelines.workspace.lock import hold_stage
from pipelines.workspace.manifest import Provenance, digest_json, read_provenance, read_table, write_table

if TYPE_CHECKING:
    from pipelines.training.loop import StepReport

log = logging.getLogger(__name__)
STAGE = "train"
ROW_FORMAT = 2
NEUTRAL_SETTINGS: Mapping[str, Any] = {
    "pair_originals": False,
    "self_blend": 0.0,
    "swap_share": 0.0,
    "mirrored": False,
    "optimization.warmup_share": 0.0,
    "optimization.warmup_start": 0.0,
    "optimization.freeze_backbone_epochs": 0,
    "optimization.sam": 0.0,
    **{f"dense.{name}": value for name, value in list_settings(DenseSupervisionConfig()).items()},
}
"""Settings that not every version records. A run without one resumes as if it had recorded this value."""
PRECISION_NAMES: Mapping[str, TrainPrecision] = {"32": "float32", "16": "float16"}
"""Names in runs of older versions, and today's."""
FACE_COLUMNS = ["video_id", "frame_index", "crop_path", "mask_path", "x0_px", "y0_px", "x1_px", "y1_px"]
VALIDATION_FACES_PER_VIDEO = 8
PREVIEW_FACES = 6
PREVIEW_COLUMNS = 8


@dataclass(frozen=True)
class TrainSummary:
    """The result of a training run."""

    folder: Path
    epochs: list[EpochRow]
    train_videos: int
    val_videos: int
    test_videos: int
    """Videos in the split `test`, which were not used."""

    @property
    def best(self) -> EpochRow:
        return [row for row in self.epochs if row.is_best][-1]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "best.safetensors"


def train(
    workspace: Path | str,
    config: TrainConfig | None = None,
    options: TrainOptions | None = None,
    *,
    run: str = "default",
    on_progress: ProgressCallback = ignore_progress,
) -> TrainSummary:
    """Train on the workspace's faces; an interrupted run resumes after its last saved step.

    Writes `train/<run>/best.safetensors`, `last.safetensors`, `last.state.pt`, `videos.parquet` (the split of each
    video), `log.csv`, `attention/`, `tensorboard/` and, when all epochs are finished, `manifest.parquet` with a row per epoch.
    Videos of the split `test` are never read.

    Raises:
        ManifestError: no finished `detect-faces` stage.
        DatasetError: no labels, or a class missing in training or validation.
        LeakError: a content, original or identity is in two of the given splits.
        SettingsChangedError: the run was started with other settings or other faces.
        TrainingDivergedError: the loss is no longer finite.
        KeyboardInterrupt: Ctrl-C; the run is saved as it is.
    """
    from pipelines.system.device import choose_device
    from pipelines.training.launch import check_devices, choose_precision, launch
    from pipelines.training.run import TrainingRun, try_network

    config, options = config or TrainConfig(), options or TrainOptions()
    refuse_shard(options, STAGE)
    if not run.strip() or Path(run).name != run or run in (".", ".."):
        raise ConfigError(f"run must be a plain name without slashes, got {run!r}")
    config = replace(config, precision=choose_precision(config.precision, choose_device(options.device)))
    check_devices(config, options)
    faces = _read_faces(Path(workspace), config)
    provenance = Provenance(
        STAGE,
        ROW_FORMAT,
        _settings_of(config) | _describe_init(config.init) | {"data_sha256": _data_digest(faces.split)},
        faces.provenance,
    )
    with hold_stage(workspace, f"{STAGE}-{run}"):
        _refuse_own_start(Path(workspace) / STAGE / run, config.init, overwrite=options.overwrite)
        try_network(config)  # before anything of an existing run is deleted
        folder = _open_run(Path(workspace), run, provenance, overwrite=options.overwrite)
        _write_sides(folder, faces.split, provenance)
        rows = launch(
            TrainingRun(
                folder,
                config,
                options,
                make_contract(config, faces.provenance),
                provenance,
                faces.of(faces.split.train, with_masks=config.learns_masks),
                faces.of(faces.split.val, limit=VALIDATION_FACES_PER_VIDEO),
            ),
            _report(config, on_progress),
        )
        write_table(rows_to_table(rows, EpochRow), folder / "manifest.parquet", provenance)
        return TrainSummary(
            folder, rows, *(len(side) for side in (faces.split.train, faces.split.val, faces.split.test))
        )


def preview_augmentations(workspace: Path | str, output: Path | str, config: TrainConfig | None = None) -> Path:
    """Write a picture of training faces: each original, then versions with the image augmentation of the config.

    With `self_blend`, two more rows for each real face: the targets of its self-blends, and the self-blends.

    Raises:
        ManifestError: no finished `detect-faces` stage.
        DatasetError: no labelled face.
        ConfigError: the output is not a .png or .jpg.
    """
    from pipelines.data.image_augmentation import preview_augmentations as draw
    from pipelines.training.run import make_training_images

    config, output = config or TrainConfig(), Path(output)
    if output.suffix not in (".png", ".jpg"):
        raise ConfigError(f"--preview-augmentations writes a .png or .jpg, not {output.name!r}")
    upstream, provenance = open_upstream(Path(workspace), "detect-faces")
    videos = [video for video in upstream.read_videos() if is_usable(video) and video.split != "test"]
    chosen = _faces_of(videos, _group_by_video(upstream), upstream.root)
    by_label = [[face for face in chosen if face.label == label] for label in (0, 1)]
    rng = np.random.default_rng(config.seed)
    shown = [side[i] for side in by_label for i in sorted(rng.permutation(len(side))[: PREVIEW_FACES // 2])]
    if not shown:
        raise DatasetError("no labelled face to show; give labels with --labels, or folders named real and fake")
    images = make_training_images(shown, make_contract(config, provenance), config, default_cache_bytes())
    picture = draw(
        [images.evaluation_image(i) for i in range(len(shown))],
        config.augment,
        seed=config.seed,
        columns=PREVIEW_COLUMNS,
    )
    if config.self_blend:
        picture = join_images(
            [picture, *preview_self_blends(images, seed=config.seed, columns=PREVIEW_COLUMNS)], axis=0
        )
    with replace_atomically(output) as temporary:
        temporary.write_bytes(encode_image(picture, output.suffix))
    return output


def make_contract(config: TrainConfig, upstream: Provenance) -> Preprocessing:
    """The preprocessing contract of the run's checkpoints."""
    faces = upstream.settings
    mean, std = _normalization_of(config)
    geometry = Preprocessing(
        margin=faces["margin"],
        crop_box=config.crop_box,
        input_size=config.input_size,
        mean=mean,
        std=std,
        frames=config.frames,
    )
    if not faces["detector_sha256"]:  # imported with --as-is: `predict` uses the default detector
        return geometry
    contract = replace(geometry, detector=faces["detector"], detector_sha256=faces["detector_sha256"])
    if upstream.stage == "import-faces":  # its thresholds are for pictures known to show a face
        return contract
    return replace(contract, max_side=faces["max_side"], min_score=faces["min_score"])


def _normalization_of(config: TrainConfig) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel, for values in 0..1."""
    import timm
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from pipelines.models.backbone import MOBILENETV2_IMAGENET

    backbone, half = config.network.backbone, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    if config.normalization == "half":
        return half
    if config.normalization == "imagenet" or backbone == MOBILENETV2_IMAGENET:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    weights = timm.get_pretrained_cfg(backbone)
    if weights is None or (backbone.startswith("tf_efficientnet") and "." not in backbone):
        return half
    return tuple(weights.mean), tuple(weights.std)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Faces:
    """The workspace's faces and their split."""

    root: Path
    provenance: Provenance
    split: VideosBySplit
    by_video: Mapping[str, Sequence[Any]]

    def of(self, videos: Sequence[VideoRow], limit: int | None = None, *, with_masks: bool = False) -> list[Face]:
        """The crops of some of the videos."""
        return _faces_of(videos, self.by_video, self.root, limit, with_masks=with_masks)


def _read_faces(workspace: Path, config: TrainConfig) -> _Faces:
    """The faces of the upstream stage with their split; leaks are refused."""
    upstream, provenance = open_upstream(workspace, "detect-faces")
    split = split_videos(
        upstream.read_videos(),
        val_fraction=config.val_fraction,
        seed=config.seed,
        trains_on_fakes=config.self_blend < 1,
    )
    refuse_leaks({"train": split.train, "val": split.val, "test": split.test}, others=split.unused)
    if split.test:
        log.info("%d videos of the split test are not used", len(split.test))
    return _Faces(upstream.root, provenance, split, _group_by_video(upstream))


def _faces_of(
    videos: Sequence[VideoRow],
    by_video: Mapping[str, Sequence[Any]],
    root: Path,
    limit: int | None = None,
    *,
    with_masks: bool = False,
) -> list[Face]:
    """The crops of the videos, each content once; at most `limit` per video, evenly spaced."""
    chosen = []
    group_of = dict(zip((video.video_id for video in videos), group_videos(videos), strict=True))
    every = {video.video_id: by_video.get(video.video_id, []) for video in videos}
    originals = find_originals(videos, list(chain.from_iterable(every.values()))) if with_masks else {}
    for video in {video.video_id: video for video in videos}.values():
        records = every[video.video_id]
        step = max(1, -(-len(records) // limit)) if limit else 1
        label = LABELS.index(video.label)
        for record in records[::step]:
            mask, original = record["mask_path"], originals.get(record["crop_path"])
            face = Face(
                root / record["crop_path"], label, video.video_id, record["landmarks"], group_of[video.video_id]
            )
            chosen.append(
                replace(
                    face, mask_path=root / mask if mask else None, original_path=root / original if original else None
                )
            )
    return chosen


def _group_by_video(folder: StageFolder) -> dict[str, list[Any]]:
    faces: dict[str, list[Any]] = {}
    table = read_table(folder.manifest_path, FaceRow)
    coordinates = [table[f"{name}_{axis}_crop_px"].to_numpy() for name in LANDMARK_NAMES for axis in "xy"]
    landmarks = np.stack(coordinates, axis=1).astype(np.float32).reshape(-1, len(LANDMARK_NAMES), 2)
    for record, points in zip(table.select(FACE_COLUMNS).to_pylist(), landmarks, strict=True):
        faces.setdefault(record["video_id"], []).append(record | {"landmarks": points})
    return faces


def _settings_of(config: TrainConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in list_settings(config).items()}


def _refuse_own_start(folder: Path, init: str, *, overwrite: bool) -> None:
    if overwrite and folder.resolve() in Path(init).resolve().parents:
        raise ConfigError(f"--overwrite would delete {init}, which --init names; use another --run, or copy it first")


def _open_run(workspace: Path, run: str, provenance: Provenance, *, overwrite: bool) -> Path:
    folder = workspace / STAGE / run
    if overwrite and folder.exists():
        try:
            for name in ("manifest.parquet", "last.state.pt"):  # first what a run would resume from
                remove_for_good(folder / name)
            shutil.rmtree(folder)
        except OSError as error:
            raise storage_error(error, folder) from error
    if (folder / "videos.parquet").is_file():
        older = _normalise(read_provenance(folder / "videos.parquet"))
        changes = _normalise(provenance).changes_from(older)
        if changes:
            more_epochs = provenance.settings["epochs"] > older.settings.get("epochs", 0)
            remedy = "pass --overwrite or another --run name"
            if more_epochs and (folder / "manifest.parquet").is_file():
                remedy += f"; to train its weights further, pass --init {folder / 'last.safetensors'} --run OTHER"
            raise SettingsChangedError(f"{folder} was started with other settings: {'; '.join(changes)}; {remedy}")
    return folder


def _normalise(provenance: Provenance) -> Provenance:
    """With the setting names and values of all versions brought to the same form, for comparison only."""
    settings = {**NEUTRAL_SETTINGS, **provenance.settings}
    precision: Any = settings.get("precision")
    return replace(provenance, settings=settings | {"precision": PRECISION_NAMES.get(precision, precision)})


def _write_sides(folder: Path, split: VideosBySplit, provenance: Provenance) -> None:
    sides = [replace(row, split="train") for row in split.train] + [replace(row, split="val") for row in split.val]
    write_table(rows_to_table(sides, VideoRow), folder / "videos.parquet", provenance)


def _report(config: TrainConfig, on_progress: ProgressCallback) -> Any:
    def on_step(report: StepReport, rows: list[EpochRow]) -> None:
        last = f", val AUC {rows[-1].val_auc:.4f}" if rows else ""
        note = f"epoch {report.epoch + 1}/{config.epochs}, loss {report.losses['total']:.3f}{last}"
        done = report.epoch * report.steps + report.step + 1
        on_progress(Progress(STAGE, done, config.epochs * report.steps, "batch", note))

    return on_step


def _describe_init(init: str) -> dict[str, str | None]:
    """The initial weights by name and digest; the file's location does not matter."""
    if init == "none":
        return {"init": "none", "init_sha256": None}
    file = resolve_weights(init, kind="checkpoint")
    return {"init": file.name, "init_sha256": file.sha256}


def _data_digest(split: VideosBySplit) -> str:
    return digest_json([[[row.sha256, row.label] for row in rows] for rows in (split.train, split.val)])

"""Stage `train`: the multi-attention network from a `detect-faces` manifest."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoint import CheckpointHeader, read_safetensors_metadata, save_checkpoint
from pipelines.config import RunOptions, TrainConfig, settings_of
from pipelines.data.faces import Face, FaceImages
from pipelines.data.splits import split_videos
from pipelines.errors import CheckpointError, ConfigError, ManifestError, SettingsChangedError
from pipelines.manifest import Provenance, digest_json, read_provenance, read_table, replace_atomically, write_table
from pipelines.preprocessing import Preprocessing
from pipelines.progress import Progress, ProgressCallback, ignore_progress
from pipelines.records import LABELS, EpochRow, FaceRow, VideoRow, rows_to_table
from pipelines.stage_loop import StageFolder, open_upstream
from pipelines.weights_files import describe_mismatch, read_state, resolve_weights

if TYPE_CHECKING:
    from pipelines.models.multi_attention.network import MultiAttentionDetector
    from pipelines.training.loop import StepLosses, Trainer

log = logging.getLogger(__name__)
STAGE = "train"
ROW_FORMAT = 1
VALIDATION_FACES_PER_VIDEO = 8


@dataclass(frozen=True)
class TrainSummary:
    """What a training run ended with."""

    folder: Path
    epochs: list[EpochRow]
    train_videos: int
    val_videos: int

    @property
    def best(self) -> EpochRow:
        return [row for row in self.epochs if row.is_best][-1]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "best.safetensors"


def train(
    workspace: Path | str,
    config: TrainConfig | None = None,
    options: RunOptions | None = None,
    *,
    run: str = "default",
    on_progress: ProgressCallback = ignore_progress,
) -> TrainSummary:
    """Train from the workspace's faces; a run that was interrupted goes on after its last whole epoch.

    Writes `train/<run>/best.safetensors`, `last.safetensors`, `last.state.pt`, `videos.parquet` (which video was on which
    side) and, when all epochs are done, `manifest.parquet` with a row per epoch.

    Raises:
        ManifestError: no finished `detect-faces` stage.
        DatasetError: no labels, or a class missing on one side of the split.
        SettingsChangedError: the run was started with other settings or other faces.
        TrainingDivergedError: the loss is no longer a number.
    """
    config, options = config or TrainConfig(), options or RunOptions()
    upstream, upstream_provenance = open_upstream(Path(workspace), "detect-faces")
    faces_by_video = _read_faces(upstream)
    train_rows, val_rows = split_videos(upstream.read_videos(), val_fraction=config.val_fraction, seed=config.seed)
    provenance = Provenance(
        STAGE,
        ROW_FORMAT,
        settings_of(config, **_describe_init(config.init), data_sha256=_data_digest(train_rows, val_rows)),
        upstream_provenance,
    )
    trainer = _make_trainer(config, options)  # what can not be built must not cost the run that is there
    folder = _open_run(Path(workspace), run, provenance, overwrite=options.overwrite)
    _write_sides(folder, train_rows, val_rows, provenance)
    contract = make_contract(config, upstream_provenance)
    images = FaceImages(_faces_of(train_rows, faces_by_video, upstream.root), contract)
    validation = FaceImages(
        _faces_of(val_rows, faces_by_video, upstream.root, limit=VALIDATION_FACES_PER_VIDEO), contract
    )
    state_path = folder / "last.state.pt"
    if state_path.is_file():
        _restore(trainer, state_path)
    while trainer.finished_epochs < config.epochs:
        row = trainer.run_epoch(
            images, validation, workers=options.workers or 2, on_step=_report(trainer, config, on_progress)
        )
        _save(trainer, folder, row, contract, provenance)
        log.info("epoch %d (%s): loss %.4f, val AUC %.4f", row.epoch, row.phase, row.train_loss, row.val_auc)
    write_table(rows_to_table(trainer.rows, EpochRow), folder / "manifest.parquet", provenance)
    return TrainSummary(folder, trainer.rows, len(train_rows), len(val_rows))


def make_contract(config: TrainConfig, upstream: Provenance) -> Preprocessing:
    """The preprocessing that a checkpoint of this run must be used with."""
    faces = upstream.settings
    mean, std = _normalisation_of(config.backbone)
    geometry = Preprocessing(
        margin=faces["margin"],
        crop_box=config.crop_box,
        input_size=config.input_size,
        mean=mean,
        std=std,
        frames=config.frames,
    )
    if not faces["detector_sha256"]:  # faces imported as they were: `predict` uses the default detector
        return geometry
    contract = replace(geometry, detector=faces["detector"], detector_sha256=faces["detector_sha256"])
    if upstream.stage == "import-faces":  # its thresholds are for pictures that are known to be a face
        return contract
    return replace(contract, max_side=faces["max_side"], min_score=faces["min_score"])


def _make_trainer(config: TrainConfig, options: RunOptions) -> Trainer:
    import torch

    from pipelines.device import choose_device
    from pipelines.models.multi_attention.config import MultiAttentionConfig
    from pipelines.models.multi_attention.network import MultiAttentionDetector
    from pipelines.training.loop import Trainer

    torch.manual_seed(config.seed)
    try:
        network = MultiAttentionDetector(
            MultiAttentionConfig(
                backbone=config.backbone,
                texture_tap=config.texture_tap,
                attention_tap=config.attention_tap,
                num_attentions=config.num_attentions,
                drop_path_rate=config.drop_path_rate,
            )
        )
    except ValueError as error:
        raise ConfigError(f"the network can not be built: {error}") from error
    if config.init != "none":
        load_initial_weights(network, config.init)
    return Trainer(network, config, choose_device(options.device))


def load_initial_weights(network: MultiAttentionDetector, init: str) -> None:
    """Start from a checkpoint of the same network, or from weights of its backbone (a missing classifier stays new).

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    path = resolve_weights(init, kind="checkpoint").path
    state = read_state(path)
    is_checkpoint = path.suffix == ".safetensors" and "deepfake" in read_safetensors_metadata(path)
    target = network if is_checkpoint else network.backbone.net
    expected = target.state_dict()
    optional = set() if is_checkpoint else {name for name in expected if _is_classifier(name)}
    state = {name: value for name, value in state.items() if is_checkpoint or not _is_classifier(name)}
    mismatch = describe_mismatch(expected.keys() - optional - state.keys(), state.keys() - expected.keys())
    if mismatch:
        raise CheckpointError(f"{path} does not fit the network; {mismatch}; check --backbone")
    try:
        target.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the network: {error}; check --backbone") from error


def _is_classifier(name: str) -> bool:
    return name.split(".")[0] in ("classifier", "fc", "head")


def _normalisation_of(backbone: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std that the backbone's ImageNet weights were trained with."""
    import timm
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from pipelines.models.backbone import MOBILENETV2_IMAGENET

    if backbone == MOBILENETV2_IMAGENET:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    config = timm.get_pretrained_cfg(backbone)
    if config is None or backbone.startswith("tf_efficientnet"):  # AdvProp weights, as in the authors' code
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return tuple(config.mean), tuple(config.std)  # type: ignore[return-value]


def _read_faces(folder: StageFolder) -> dict[str, list[FaceRow]]:
    table = read_table(folder.manifest_path, FaceRow)
    faces: dict[str, list[FaceRow]] = {}
    columns = ["video_id", "crop_path"]
    for record in table.select(columns).to_pylist():
        faces.setdefault(record["video_id"], []).append(record)
    return faces


def _faces_of(
    videos: Sequence[VideoRow], faces: Mapping[str, Sequence[Any]], root: Path, limit: int | None = None
) -> list[Face]:
    """The crops of the videos, each content once; at most `limit` of a video, spread evenly."""
    chosen = []
    for video in {video.video_id: video for video in videos}.values():
        records = faces.get(video.video_id, [])
        step = max(1, -(-len(records) // limit)) if limit else 1
        label = LABELS.index(video.label)
        chosen += [Face(root / record["crop_path"], label, video.video_id) for record in records[::step]]
    return chosen


def _open_run(workspace: Path, run: str, provenance: Provenance, *, overwrite: bool) -> Path:
    if not run or Path(run).name != run or run in (".", ".."):
        raise ConfigError(f"run must be a plain name without slashes, got {run!r}")
    folder = workspace / STAGE / run
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if (folder / "videos.parquet").is_file():
        changes = provenance.changes_from(read_provenance(folder / "videos.parquet"))
        if changes:
            raise SettingsChangedError(
                f"{folder} was started with other settings: {'; '.join(changes)}; pass --overwrite or another --run name"
            )
    return folder


def _write_sides(
    folder: Path, train_rows: Sequence[VideoRow], val_rows: Sequence[VideoRow], provenance: Provenance
) -> None:
    sides = [replace(row, split="train") for row in train_rows] + [replace(row, split="val") for row in val_rows]
    write_table(rows_to_table(sides, VideoRow), folder / "videos.parquet", provenance)


def _report(trainer: Trainer, config: TrainConfig, on_progress: ProgressCallback) -> Any:
    epoch = trainer.finished_epochs + 1
    last = f", val AUC {trainer.rows[-1].val_auc:.4f}" if trainer.rows else ""

    def on_step(step: int, steps: int, losses: StepLosses) -> None:
        note = f"epoch {epoch}/{config.epochs}, loss {losses.total:.3f}{last}"
        on_progress(Progress(STAGE, (epoch - 1) * steps + step, config.epochs * steps, "batch", note))

    return on_step


def _save(trainer: Trainer, folder: Path, row: EpochRow, contract: Preprocessing, provenance: Provenance) -> None:
    """The checkpoints, then the state: an epoch counts when its state is there."""
    import torch

    from pipelines.models import model_config

    header = CheckpointHeader(
        model=f"multi-attention/{trainer.config.preset}",
        model_config=model_config(trainer.network),
        preprocessing=contract,
        provenance={
            **provenance.to_json(),
            "epoch": row.epoch,
            "val_auc": row.val_auc,
            "val_log_loss": row.val_log_loss,
            "packages": _package_versions(),
        },
    )
    state = trainer.average.state_dict()
    save_checkpoint(folder / "last.safetensors", state, header)
    if row.phase == "network" and row.is_best:
        save_checkpoint(folder / "best.safetensors", state, header)
    with replace_atomically(folder / "last.state.pt") as beside:
        content = io.BytesIO()
        torch.save(trainer.state_dict(), content)
        beside.write_bytes(content.getbuffer())  # by Python, so a full disk is an OSError


def _restore(trainer: Trainer, path: Path) -> None:
    import torch

    try:
        state = torch.load(path, map_location=trainer.device, weights_only=True)
        trainer.load_state_dict(state)
    except Exception as error:  # torch reports damaged files with many types
        raise ManifestError(f"{path} can not be read ({error}); start the run again with --overwrite") from error


def _describe_init(init: str) -> dict[str, str | None]:
    """The initial weights by name and digest: where the file lies changes nothing."""
    if init == "none":
        return {"init": "none", "init_sha256": None}
    file = resolve_weights(init, kind="checkpoint")
    return {"init": file.name, "init_sha256": file.sha256}


def _data_digest(train_rows: Sequence[VideoRow], val_rows: Sequence[VideoRow]) -> str:
    sides = [[[row.sha256, row.label] for row in rows] for rows in (train_rows, val_rows)]
    return digest_json(sides)


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in ("deepfake", "torch", "timm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions

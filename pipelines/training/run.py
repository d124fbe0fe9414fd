"""A training run and its folder: build or restore, train epoch by epoch, save so that it can be stopped after any step."""

from __future__ import annotations

import ctypes
import io
import logging
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from safetensors.torch import save as encode_safetensors
from torch import Tensor

from pipelines.checkpoints.checkpoint import CheckpointHeader, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, to_network_input
from pipelines.data.faces import Face, FaceImages, default_cache_bytes
from pipelines.errors import ConfigError, ManifestError, TrainingDivergedError
from pipelines.models import build_model, model_config
from pipelines.models.backbone import set_bn_momentum
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.models.outputs import DetectorOutput
from pipelines.records import EpochRow
from pipelines.system.atomic_files import replace_atomically
from pipelines.training.config import TrainConfig, TrainOptions
from pipelines.training.initial_weights import load_initial_weights
from pipelines.training.loop import Diverged, EpochReport, StepReport, Trainer, on_first_process
from pipelines.training.monitor import RunMonitor, peak_memory_mb
from pipelines.training.overlays import draw_attention_maps
from pipelines.training.step import Network
from pipelines.workspace.manifest import Provenance

log = logging.getLogger(__name__)
DEFAULT_WORKERS = 2
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, 2**31 - 1
"""Parameters of glibc's mallopt."""
OVERLAY_FACES = 4
"""Validation faces whose attention maps are drawn after each epoch, half real, half fake."""


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a process needs to train; picklable."""

    folder: Path
    config: TrainConfig
    options: TrainOptions
    contract: Preprocessing
    provenance: Provenance
    train_faces: Sequence[Face]
    val_faces: Sequence[Face]

    @property
    def state_path(self) -> Path:
        return self.folder / "last.state.pt"


def make_network(config: TrainConfig) -> Network:
    """The network of a config with its initial weights, identical on every machine and in every process.

    Raises:
        ValueError: the config does not describe a network.
        CheckpointError: the initial weights do not fit.
    """
    torch.manual_seed(config.seed)
    if config.preset == "backbone":
        network: Any = build_model(config.model, drop_path_rate=config.network.drop_path_rate)
        if config.network.bn_momentum is not None:
            set_bn_momentum(network, config.network.bn_momentum)
    else:
        network = build_model(config.model, **vars(config.network))
    if config.init != "none":
        load_initial_weights(network, config.init)
    return network  # type: ignore[no-any-return]


def try_network(config: TrainConfig) -> None:
    """Pass one image through the network, so that settings that cannot be trained are refused before anything else happens.

    Raises:
        ConfigError: the config does not describe a network, or one that does not accept images of this size.
        CheckpointError: the initial weights do not fit.
    """
    image = torch.zeros(1, 3, config.input_size, config.input_size)
    try:
        network = make_network(config).eval()
        with torch.inference_mode():
            network(image)
    except (ValueError, RuntimeError, AssertionError, IndexError) as error:
        raise ConfigError(
            f"{config.network.backbone} cannot be trained at {config.input_size} px with these settings: {error}"
        ) from error


def continue_run(
    fabric: Fabric,
    run: TrainingRun,
    on_step: Callable[[StepReport, list[EpochRow]], None],
    should_stop: Callable[[], bool],
) -> list[EpochRow] | None:
    """Train from the last saved step to the end; returns the epochs' rows, or None if the run was stopped and saved.

    Raises:
        TrainingDivergedError: a loss or its gradient is not finite.
        ManifestError: the saved state cannot be loaded.
    """
    if fabric.device.type == "cpu":
        keep_freed_memory()
    network = make_network(run.config)
    trainer = Trainer(network, run.config, fabric)
    if run.state_path.is_file():
        _restore(trainer, run.state_path)
    if run.options.compile:
        _compile(network, run.config)
    images, validation = _open_images(run, fabric.world_size)
    steps = trainer.steps_per_epoch(images)
    done = trainer.finished_epochs * steps + trainer.step
    opened = (  # rewrites the run's log at once: only one process may have it
        RunMonitor(run.folder, finished_epochs=trainer.finished_epochs, finished_steps=done)
        if fabric.is_global_zero
        else nullcontext()
    )
    with opened as monitor:

        def report(step: StepReport) -> None:
            on_step(step, trainer.rows)
            if monitor is not None:
                values = {"learning_rate": step.learning_rate, "gradient_norm": step.gradient_norm}
                monitor.log_step(step.epoch * steps + step.step + 1, step.losses | values)

        workers = run.options.workers or DEFAULT_WORKERS
        while not trainer.is_done:
            try:
                epoch = trainer.run_epoch(images, validation, workers=workers, on_step=report, should_stop=should_stop)
            except Diverged as error:
                raise _keep_batch(error, run, images, fabric.global_rank) from error
            on_first_process(fabric, partial(_keep_epoch, epoch, trainer, run, validation, monitor))
            if epoch is None:
                return None
    return trainer.rows


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks: every step needs the same ones, and fetching them anew from the system takes time.

    Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)


def _compile(network: Network, config: TrainConfig) -> None:
    """Compile what each phase calls, lazily, on the first call."""
    if config.backbone_epochs and isinstance(network, MultiAttentionDetector):
        network.backbone.net.compile()
    network.compile()


def make_training_images(
    faces: Sequence[Face], contract: Preprocessing, config: TrainConfig, cache_bytes: int
) -> FaceImages:
    """Training images of the faces, with the augmentation of the config."""
    return FaceImages(
        faces,
        contract,
        augment=config.augment,
        crop_jitter=config.crop_jitter,
        cache_bytes=cache_bytes,
        self_blends=config.self_blend > 0,
        masks=config.learns_masks,
    )


def _open_images(run: TrainingRun, processes: int) -> tuple[FaceImages, FaceImages]:
    """Images for training and validation; several processes divide the memory between them."""
    config, cache_gb = run.config, run.options.cache_gb
    cache_bytes = default_cache_bytes() // processes if cache_gb is None else int(cache_gb * 1e9)
    images = make_training_images(run.train_faces, run.contract, config, cache_bytes)
    return images, FaceImages(run.val_faces, run.contract, cache_bytes=cache_bytes // 4)


def _keep_epoch(
    epoch: EpochReport | None, trainer: Trainer, run: TrainingRun, validation: FaceImages, monitor: RunMonitor | None
) -> None:
    """Log and save a finished epoch. If the epoch was stopped, save only the state; a resumed run truncates the log to it."""
    assert monitor is not None
    if epoch is None:
        _save_state(trainer, run)
        return
    monitor.log_epoch(
        epoch.row,
        images_per_second=epoch.images_per_second,
        peak_memory_mb=peak_memory_mb(trainer.fabric.device.type),
        loader_share=epoch.loader_share,
        seconds=epoch.seconds,
    )
    picture = _draw_overlay(trainer, validation)
    if picture is not None:
        monitor.log_overlay(epoch.row.epoch, picture)
    _save(trainer, run, epoch.row)
    row = epoch.row
    log.info("epoch %d (%s): loss %.4f, val AUC %.4f", row.epoch, row.phase, row.train_loss, row.val_auc)


def _save(trainer: Trainer, run: TrainingRun, row: EpochRow) -> None:
    """Save the checkpoints, then the state: an epoch is finished once its state is saved."""
    header = CheckpointHeader(
        model=run.config.model,
        model_config=model_config(trainer.network),
        preprocessing=run.contract,
        provenance={
            **run.provenance.to_json(),
            "epoch": row.epoch,
            "val_auc": row.val_auc,
            "val_log_loss": row.val_log_loss,
            "packages": _package_versions(),
        },
    )
    state = trainer.average.state_dict()
    save_checkpoint(run.folder / "last.safetensors", state, header)
    if row.phase == "network" and row.is_best:
        save_checkpoint(run.folder / "best.safetensors", state, header)
    _save_state(trainer, run)


def _save_state(trainer: Trainer, run: TrainingRun) -> None:
    with replace_atomically(run.state_path) as temporary:
        content = io.BytesIO()
        torch.save(trainer.state_dict(), content)
        temporary.write_bytes(content.getbuffer())  # by Python, so a full disk is an OSError


def _restore(trainer: Trainer, path: Path) -> None:
    try:
        # to the CPU: tensors are copied to their device from there, and Adam's step counters must stay on the CPU
        trainer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise ManifestError(
            f"{path} is damaged or holds code, which is never run; start the run again with --overwrite"
        ) from error
    except Exception as error:  # torch reports damaged files with many types
        raise ManifestError(f"{path} cannot be read ({error}); start the run again with --overwrite") from error


def _keep_batch(error: Diverged, run: TrainingRun, images: FaceImages, rank: int) -> TrainingDivergedError:
    """Save the batch whose loss is not finite, and return an error that identifies it."""
    report, path = error.report, run.folder / f"diverged-{rank}.safetensors"
    faces = [images.faces[index] for index in error.batch.indices]
    metadata = {
        "epoch": str(report.epoch + 1),
        "step": str(report.step + 1),
        "losses": str(report.losses),
        "faces": "\n".join(str(face.path) for face in faces),
    }
    tensors = {"inputs": error.inputs.cpu().contiguous(), "labels": torch.from_numpy(error.batch.labels)}
    with replace_atomically(path) as temporary:
        temporary.write_bytes(encode_safetensors(tensors, metadata))
    names = ", ".join(sorted({face.video_id for face in faces})[:3])
    return TrainingDivergedError(
        f"the loss became {report.losses['total']}, its gradient's norm {report.gradient_norm}, in epoch "
        f"{report.epoch + 1}, batch {report.step + 1} (videos {names}, …); the batch is kept in {path}; start another "
        "--run with a lower --lr, --set warmup_steps=200 or --set clip_norm=1; --init can start from an earlier epoch's weights"
    )


def _draw_overlay(trainer: Trainer, validation: FaceImages) -> Any:
    """The maps over a few validation faces, the same after each epoch; None for a network without maps."""
    by_label = [[i for i, face in enumerate(validation.faces) if face.label == label] for label in (0, 1)]
    chosen = [index for indices in by_label for index in indices[:: max(1, len(indices) // 2)][: OVERLAY_FACES // 2]]
    faces = [validation.evaluation_image(index) for index in chosen]
    with torch.inference_mode():
        maps = _maps_of(trainer.average.eval()(to_network_input(faces, validation.contract, trainer.fabric.device)))
    return None if maps is None else draw_attention_maps(np.stack(faces), maps.float().cpu().numpy())


def _maps_of(output: DetectorOutput) -> Tensor | None:
    """(N, M, h, w) >= 0: the attention maps; of F-BiFPN-MTLNet the mask and each level's map, at the finest level's size."""
    if output.dense is None:
        return output.attention_maps
    logits = [each for each in (output.dense.mask, *output.dense.attention) if each is not None]
    size = output.dense.attention[0].shape[-2:]
    return torch.cat([F.interpolate(each.sigmoid(), size=size, mode="nearest") for each in logits], dim=1)


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in ("deepfake", "torch", "timm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions

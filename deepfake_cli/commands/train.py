"""`deepfake train`."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from deepfake_cli import options as opt
from deepfake_cli.progress import ProgressBar
from pipelines.training.config import TrainConfig, TrainOptions, make_train_config
from pipelines.training.settings import list_settings, parse_assignments

MODEL = "Network"
DATA = "Data"
SCHEDULE = "Optimisation"


class Preset(enum.StrEnum):
    paper = "paper"
    reference = "reference"
    backbone = "backbone"


class Augment(enum.StrEnum):
    none = "none"
    flip = "flip"
    robust = "robust"
    cameras = "cameras"


class Agda(enum.StrEnum):
    soft = "soft"
    hard = "hard"
    none = "none"


class Auxiliary(enum.StrEnum):
    ril = "ril"
    ams = "ams"
    none = "none"


class Optimizer(enum.StrEnum):
    adam = "adam"
    adamw = "adamw"


class Schedule(enum.StrEnum):
    constant = "constant"
    cosine = "cosine"
    step = "step"


class Precision(enum.StrEnum):
    auto = "auto"
    float32 = "32"
    bf16 = "bf16"
    float16 = "16"


def _setting(help: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False)


def train(
    workspace: opt.Workspace,
    run: Annotated[str, typer.Option(help="Name of the run's folder.")] = "default",
    preset: Annotated[Preset, typer.Option(help="Where all settings begin.")] = Preset(TrainConfig.preset),
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, any setting of --show-settings; repeatable.")
    ] = None,
    show_settings: Annotated[bool, typer.Option("--show-settings", help="Print all settings and stop.")] = False,
    preview_augmentations: Annotated[
        Path | None, typer.Option(help="Write a picture of augmented faces and stop (.png or .jpg).")
    ] = None,
    backbone: Annotated[str | None, _setting("timm name, or mobilenetv2_imagenet.", MODEL)] = None,
    texture_tap: Annotated[str | None, _setting("SL_t: auto, or one of L1..Ln.", MODEL)] = None,
    attention_tap: Annotated[str | None, _setting("SL_a: auto, or one of L1..Ln.", MODEL)] = None,
    attentions: Annotated[int | None, _setting("M, number of attention maps, 1..8.", MODEL)] = None,
    auxiliary: Annotated[Auxiliary | None, _setting("What keeps the maps apart.", MODEL)] = None,
    agda: Annotated[Agda | None, _setting("Attention-guided data augmentation.", MODEL)] = None,
    init: Annotated[str | None, _setting("none, backbone weights, or a checkpoint.", MODEL)] = None,
    input_size: Annotated[int | None, _setting("Side of the network's input, px.", DATA)] = None,
    crop_box: Annotated[str | None, _setting("x0,y0,x1,y1 of the aligned 380x380 crop.", DATA)] = None,
    augment: Annotated[Augment | None, _setting("Image augmentation.", DATA)] = None,
    self_blend: Annotated[float | None, _setting("Share of the fakes that are self-blended reals.", DATA)] = None,
    samples_per_epoch: Annotated[int | None, _setting("Faces drawn per epoch; 0: as many as there are.", DATA)] = None,
    val_fraction: Annotated[float | None, _setting("Held-out share where there is no split val.", DATA)] = None,
    frames: Annotated[int | None, _setting("Frames per video for predict.", DATA)] = None,
    epochs: Annotated[int | None, _setting("Of both phases together.", SCHEDULE)] = None,
    backbone_epochs: Annotated[int | None, _setting("First epochs, on the backbone alone.", SCHEDULE)] = None,
    patience: Annotated[int | None, _setting("Stop after so many epochs without gain; 0: never.", SCHEDULE)] = None,
    batch_size: Annotated[int | None, _setting("Faces per step over all devices.", SCHEDULE)] = None,
    accumulate: Annotated[int | None, _setting("Parts that a batch is computed in.", SCHEDULE)] = None,
    optimizer: Annotated[Optimizer | None, _setting("How weights are moved.", SCHEDULE)] = None,
    lr: Annotated[float | None, _setting("Learning rate.", SCHEDULE)] = None,
    weight_decay: Annotated[float | None, _setting("Weight decay.", SCHEDULE)] = None,
    schedule: Annotated[Schedule | None, _setting("Course of the learning rate in a phase.", SCHEDULE)] = None,
    warmup_steps: Annotated[int | None, _setting("Steps of linear warm-up in a phase.", SCHEDULE)] = None,
    ema: Annotated[float | None, _setting("Decay of averaged weights; 0: off.", SCHEDULE)] = None,
    clip_norm: Annotated[float | None, _setting("Largest gradient norm; 0: not clipped.", SCHEDULE)] = None,
    label_smoothing: Annotated[float | None, _setting("Of the cross-entropy.", SCHEDULE)] = None,
    seed: Annotated[int | None, _setting("Of everything that is drawn.", SCHEDULE)] = None,
    precision: Annotated[Precision | None, _setting("Of the computation.", opt.RUNNING)] = None,
    device: opt.Device = TrainOptions.device,
    devices: Annotated[
        int, typer.Option(help="Processes, one per GPU.", rich_help_panel=opt.RUNNING)
    ] = TrainOptions.devices,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network first.", rich_help_panel=opt.RUNNING)
    ] = TrainOptions.compile,
    cache_gb: Annotated[
        float | None, typer.Option(help="Memory for decoded faces.", rich_help_panel=opt.RUNNING)
    ] = TrainOptions.cache_gb,
    workers: opt.Workers = TrainOptions.workers,
    overwrite: opt.Overwrite = TrainOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Train a detector on the workspace's faces; run again to go on after an interruption.

    A setting that is not given is the preset's: paper and reference are the multi-attention network as printed and as its
    authors' code has it, backbone is a plain classifier. --show-settings lists every setting.
    """
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    given = {
        "backbone": backbone,
        "texture_tap": texture_tap,
        "attention_tap": attention_tap,
        "num_attentions": attentions,
        "auxiliary": auxiliary and auxiliary.value,
        "agda.mode": agda and agda.value,
        "init": init,
        "input_size": input_size,
        "crop_box": crop_box and opt.parse_box(crop_box),
        "augment": augment and augment.value,
        "self_blend": self_blend,
        "samples_per_epoch": samples_per_epoch,
        "val_fraction": val_fraction,
        "frames": frames,
        "epochs": epochs,
        "backbone_epochs": backbone_epochs,
        "patience": patience,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "optimizer": optimizer and optimizer.value,
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "schedule": schedule and schedule.value,
        "warmup_steps": warmup_steps,
        "ema_decay": ema,
        "clip_norm": clip_norm,
        "label_smoothing": label_smoothing,
        "seed": seed,
        "precision": precision and precision.value,
    }
    config = make_train_config(
        preset.value,
        {name: value for name, value in given.items() if value is not None} | parse_assignments(assignments or []),
    )
    if show_settings:
        _print_settings(config)
        return
    import pipelines

    if preview_augmentations is not None:
        typer.echo(str(pipelines.preview_augmentations(workspace, preview_augmentations, config)))
        return
    options = TrainOptions(
        device=device, workers=workers, overwrite=overwrite, devices=devices, compile=compile, cache_gb=cache_gb
    )
    with ProgressBar(quiet=quiet) as bar:
        summary = pipelines.train(workspace, config, options, run=run, on_progress=bar)
    best = summary.best
    typer.echo(
        f"{summary.checkpoint}: epoch {best.epoch} of {len(summary.epochs)}, validation AUC {best.val_auc:.4f}, "
        f"log loss {best.val_log_loss:.4f} on {best.val_videos} videos ({summary.train_videos} for training)"
    )


def _print_settings(config: TrainConfig) -> None:
    for name, value in list_settings(config).items():
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        typer.echo(f"{name} = {shown}")

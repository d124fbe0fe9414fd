"""`deepfake train`."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from deepfake_cli import options as opt
from deepfake_cli.progress import ProgressBar
from pipelines.config import RunOptions, TrainConfig

MODEL = "Network"
SCHEDULE = "Optimisation"


class Preset(enum.StrEnum):
    paper = "paper"


class Augment(enum.StrEnum):
    soft = "soft"
    none = "none"


class Optimizer(enum.StrEnum):
    adam = "adam"
    adamw = "adamw"


class Schedule(enum.StrEnum):
    constant = "constant"
    cosine = "cosine"


def train(
    workspace: opt.Workspace,
    run: Annotated[str, typer.Option(help="Name of the run's folder.")] = "default",
    preset: Annotated[Preset, typer.Option(help="Published settings.", rich_help_panel=MODEL)] = Preset(
        TrainConfig.preset
    ),
    backbone: Annotated[
        str, typer.Option(help="timm name, or mobilenetv2_imagenet.", rich_help_panel=MODEL)
    ] = TrainConfig.backbone,
    texture_tap: Annotated[str, typer.Option(help="SL_t, L1..Ln.", rich_help_panel=MODEL)] = TrainConfig.texture_tap,
    attention_tap: Annotated[
        str, typer.Option(help="SL_a, L1..Ln.", rich_help_panel=MODEL)
    ] = TrainConfig.attention_tap,
    attentions: Annotated[
        int, typer.Option(help="M, number of attention maps.", rich_help_panel=MODEL)
    ] = TrainConfig.num_attentions,
    drop_path: Annotated[
        float, typer.Option(help="Stochastic depth.", rich_help_panel=MODEL)
    ] = TrainConfig.drop_path_rate,
    init: Annotated[
        str, typer.Option(help="none, backbone weights, or a checkpoint.", rich_help_panel=MODEL)
    ] = TrainConfig.init,
    input_size: Annotated[
        int, typer.Option(help="Side of the network's input, px.", rich_help_panel=MODEL)
    ] = TrainConfig.input_size,
    crop_box: Annotated[
        str, typer.Option(help="x0,y0,x1,y1 of the aligned 380x380 crop.", rich_help_panel=MODEL)
    ] = ",".join(map(str, TrainConfig.crop_box)),
    epochs: Annotated[int, typer.Option(rich_help_panel=SCHEDULE)] = TrainConfig.epochs,
    backbone_epochs: Annotated[
        int, typer.Option(help="First epochs on the backbone alone.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.backbone_epochs,
    augment: Annotated[
        Augment, typer.Option(help="Attention-guided augmentation.", rich_help_panel=SCHEDULE)
    ] = Augment(TrainConfig.augment),
    augment_epochs: Annotated[
        int, typer.Option(help="Last epochs that use it; 0: all.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.augment_epochs,
    samples_per_epoch: Annotated[
        int, typer.Option(help="Faces drawn per epoch; 0: as many as there are.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.samples_per_epoch,
    optimizer: Annotated[Optimizer, typer.Option(rich_help_panel=SCHEDULE)] = Optimizer(TrainConfig.optimizer),
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=SCHEDULE)] = TrainConfig.learning_rate,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=SCHEDULE)] = TrainConfig.weight_decay,
    schedule: Annotated[Schedule, typer.Option(rich_help_panel=SCHEDULE)] = Schedule(TrainConfig.schedule),
    warmup_steps: Annotated[int, typer.Option(rich_help_panel=SCHEDULE)] = TrainConfig.warmup_steps,
    ema: Annotated[
        float, typer.Option(help="Decay of averaged weights; 0: off.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.ema_decay,
    ril_weight: Annotated[
        float, typer.Option(help="Weight of the regional independence loss.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.ril_weight,
    batch_size: Annotated[
        int, typer.Option(help="Faces per step, half real, half fake.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.train_batch_size,
    val_fraction: Annotated[
        float, typer.Option(help="Held-out share where there is no split val.", rich_help_panel=SCHEDULE)
    ] = TrainConfig.val_fraction,
    frames: Annotated[int, typer.Option(help="Frames per video for predict.")] = TrainConfig.frames,
    seed: Annotated[int, typer.Option(rich_help_panel=SCHEDULE)] = TrainConfig.seed,
    device: opt.Device = RunOptions.device,
    workers: opt.Workers = RunOptions.workers,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Train the multi-attention network on the workspace's faces; run again to go on after an interruption."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    config = TrainConfig(
        preset=preset.value,
        backbone=backbone,
        texture_tap=texture_tap,
        attention_tap=attention_tap,
        num_attentions=attentions,
        drop_path_rate=drop_path,
        init=init,
        input_size=input_size,
        crop_box=opt.parse_box(crop_box),
        epochs=epochs,
        backbone_epochs=backbone_epochs,
        augment=augment.value,
        augment_epochs=augment_epochs,
        samples_per_epoch=samples_per_epoch,
        optimizer=optimizer.value,
        learning_rate=lr,
        weight_decay=weight_decay,
        schedule=schedule.value,
        warmup_steps=warmup_steps,
        ema_decay=ema,
        ril_weight=ril_weight,
        train_batch_size=batch_size,
        val_fraction=val_fraction,
        frames=frames,
        seed=seed,
    )
    from pipelines import train as run_training

    options = RunOptions(device=device, workers=workers, overwrite=overwrite)
    with ProgressBar(quiet=quiet) as bar:
        summary = run_training(workspace, config, options, run=run, on_progress=bar)
    best = summary.best
    typer.echo(
        f"{summary.checkpoint}: epoch {best.epoch} of {len(summary.epochs)}, validation AUC {best.val_auc:.4f}, "
        f"log loss {best.val_log_loss:.4f} on {best.val_videos} videos ({summary.train_videos} for training)"
    )

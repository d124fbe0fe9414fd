"""`deepfake train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deepfake_cli import options as opt
from deepfake_cli.progress import ProgressBar
from pipelines.training.config import (
    PRESETS,
    ImageAugment,
    Preset,
    TrainConfig,
    TrainOptions,
    TrainPrecision,
    make_train_config,
)
from pipelines.training.settings import list_settings, parse_assignments, replace_settings

SETTINGS = "Settings (all of them: --show-settings)"
NOT_LEARNED = ("workers", "cache_gb")
"""What `--set` reaches in `TrainOptions`; it changes no result."""


def _setting(path: str, help: str) -> Any:
    """An option that changes one setting; its help shows the presets' defaults."""
    values = {preset: list_settings(config)[path] for preset, config in PRESETS.items()}
    usual = values[TrainConfig.preset]
    others = "".join(f", {preset} {value}" for preset, value in values.items() if value != _expected(preset, values))
    return typer.Option(help=f"{help} Default: {usual}{others}.", rich_help_panel=SETTINGS, show_default=False)


def _expected(preset: str, values: Mapping[str, Any]) -> Any:
    """The value that the help implies for a preset: that of the preset whose name it extends, else that of the first one."""
    shorter = [name for name in values if preset.startswith(f"{name}-")]
    return values[shorter[0] if shorter else TrainConfig.preset]


def train(
    workspace: opt.Workspace,
    run: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the run's folder, train/RUN in the workspace.")
    ] = "default",
    preset: Annotated[
        Preset, typer.Option(metavar="NAME", help=f"Defaults of all settings: {', '.join(PRESETS)}.")
    ] = TrainConfig.preset,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change any setting; repeatable.")
    ] = None,
    show_settings: Annotated[bool, typer.Option("--show-settings", help="Print all settings and exit.")] = False,
    preview_augmentations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture of augmented faces (.png or .jpg) and exit.")
    ] = None,
    backbone: Annotated[
        str | None, _setting("network.backbone", "Backbone: a timm name, or mobilenetv2_imagenet.")
    ] = None,
    init: Annotated[
        str | None, _setting("init", "Initial weights: none, a backbone's weights file, or a checkpoint.")
    ] = None,
    input_size: Annotated[int | None, _setting("input_size", "Side of the network's input in pixels.")] = None,
    augment: Annotated[ImageAugment | None, _setting("augment", "Image augmentation.")] = None,
    epochs: Annotated[int | None, _setting("epochs", "Number of epochs.")] = None,
    batch_size: Annotated[int | None, _setting("optimization.batch_size", "Faces per step, over all devices.")] = None,
    lr: Annotated[float | None, _setting("optimization.learning_rate", "Learning rate.")] = None,
    val_fraction: Annotated[
        float | None, _setting("val_fraction", "Share held out for validation if the data have no val split.")
    ] = None,
    seed: Annotated[int | None, _setting("seed", "Random seed.")] = None,
    precision: Annotated[TrainPrecision | None, _setting("precision", "Floating-point precision.")] = None,
    device: opt.Device = TrainOptions.device,
    devices: Annotated[
        int, typer.Option(help="Number of processes, one per GPU.", rich_help_panel=opt.RUNNING)
    ] = TrainOptions.devices,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network first.", rich_help_panel=opt.RUNNING)
    ] = TrainOptions.compile,
    overwrite: opt.Overwrite = TrainOptions.overwrite,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """Train a detector on the workspace's faces. After an interruption, the same command resumes.

    Presets: paper is the multi-attention network as published, reference follows
    its authors' code, backbone is a plain classifier. f-bifpn-mtlnet also learns
    where faces are forged; -v2-s, -v2-b3 and -small have other backbones.
    """
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    given = {
        "backbone": backbone,
        "init": init,
        "input_size": input_size,
        "augment": augment,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": lr,
        "val_fraction": val_fraction,
        "seed": seed,
        "precision": precision,
    }
    assigned = parse_assignments(assignments or [])
    not_learned = {name: assigned.pop(name) for name in NOT_LEARNED if name in assigned}
    config = make_train_config(preset, {name: value for name, value in given.items() if value is not None} | assigned)
    if show_settings:
        _print_settings(config)
        return
    import pipelines

    if preview_augmentations is not None:
        typer.echo(str(pipelines.preview_augmentations(workspace, preview_augmentations, config)))
        return
    options = replace_settings(
        TrainOptions(device=device, overwrite=overwrite, devices=devices, compile=compile), not_learned
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

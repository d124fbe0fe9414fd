"""A run and its folder: stopped anywhere and resumed it equals the undisturbed one; a lost loss is documented."""

from __future__ import annotations

import csv
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors import safe_open
from timm.models.efficientnet import EfficientNet
from torch import nn

import pipelines.training.run
from pipelines.checkpoints.checkpoint import read_header
from pipelines.checkpoints.preprocessing import Preprocessing, to_network_input
from pipelines.data.faces import Face
from pipelines.errors import ConfigError, TrainingDivergedError
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.records import EpochRow
from pipelines.training.config import TrainOptions, make_train_config
from pipelines.training.launch import choose_precision, launch
from pipelines.training.loop import StepReport, Trainer
from pipelines.training.monitor import LOG_COLUMNS, SPEED_COLUMNS
from pipelines.training.run import TrainingRun, continue_run
from pipelines.workspace.manifest import Provenance
from tests.support import differences, temporary_files

BODY = {
    "backbone": "mobilenetv2_imagenet",
    "padding": "same",
    "num_attentions": 2,
    "mid_features": 16,
    "input_size": 32,
}
SHORT = BODY | {"epochs": 1, "backbone_epochs": 0, "batch_size": 4, "samples_per_epoch": 8, "precision": "float32"}
FULL = BODY | {
    "epochs": 6,
    "backbone_epochs": 2,
    "batch_size": 4,
    "samples_per_epoch": 8,
    "precision": "float32",
    "augment": "robust",
    "crop_jitter": 0.04,
    "self_blend": 0.5,
    "drop_path_rate": 0.2,
    "attention_dropout": 0.25,
    "final_dropout": 0.5,
    "agda.noise": 0.1,
    "agda.match_weight": 0.1,
    "optimizer": "adamw",
    "backbone_lr_factor": 0.5,
    "schedule": "cosine",
    "warmup_steps": 1,
    "clip_norm": 1.0,
    "ema_decay": 0.5,
    "label_smoothing": 0.1,
    "accumulate": 2,
}
"""Everything that holds a state or draws a number."""
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("paper", {}),
    "additive margin": ("paper", {"auxiliary": "ams", "agda.mode": "hard"}),
    "reference": ("reference", {}),
    "sharpness-aware": (
        "reference",
        {"sam": 0.05, "freeze_backbone_epochs": 1, "schedule": "linear", "warmup_steps": 0, "warmup_share": 0.25},
    ),
}
WEIGHTS = ("best.safetensors", "last.safetensors")
OnStep = Callable[[StepReport, list[EpochRow]], None]
Faces = tuple[list[Face], list[Face]]


class Crash(Exception):
    """The end of a process, between two steps and without a word."""


def _run(folder: Path, faces: Faces, settings: dict[str, Any], *, preset: str = "paper", **options: Any) -> TrainingRun:
    config = make_train_config(preset, settings)
    contract = Preprocessing(input_size=config.input_size)
    provenance = Provenance("train", 1, {"epochs": config.epochs}, None)
    folder.mkdir(exist_ok=True)
    return TrainingRun(folder, config, TrainOptions(device="cpu", **options), contract, provenance, *faces)


def _train(
    run: TrainingRun, *, on_step: OnStep = lambda report, rows: None, should_stop: Callable[[], bool] = lambda: False
) -> list[EpochRow] | None:
    return continue_run(Fabric(accelerator="cpu", devices=1), run, on_step, should_stop)


def _state(run: TrainingRun) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run.state_path, weights_only=True)
    return state


def _stop_in(run: TrainingRun, epoch: int) -> None:
    """Between the two steps of an epoch, as a signal does it."""
    seen: list[StepReport] = []
    rows = _train(run, on_step=lambda report, _: seen.append(report), should_stop=lambda: seen[-1].epoch == epoch - 1)
    assert rows is None and (seen[-1].epoch, seen[-1].step) == (epoch - 1, 0)
    assert _state(run)["step"] == 1 and len(_state(run)["rows"]) == epoch - 1


def _crash_after(run: TrainingRun, epoch: int) -> None:
    """In the epoch after it, before anything of that is saved."""

    def on_step(report: StepReport, _rows: list[EpochRow]) -> None:
        if report.epoch == epoch:
            raise Crash

    with pytest.raises(Crash):
        _train(run, on_step=on_step)
    assert _state(run)["step"] == 0 and len(_state(run)["rows"]) == epoch


def _assert_equal(run: TrainingRun, undisturbed: TrainingRun) -> None:
    assert differences(_state(run), _state(undisturbed)) == []
    for name in WEIGHTS:
        assert (run.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, training_faces: Faces) -> Callable[[str], TrainingRun]:
    """The finished run of a recipe."""
    known: dict[str, TrainingRun] = {}

    def train_once(recipe: str) -> TrainingRun:
        if recipe not in known:
            preset, settings = RECIPES[recipe]
            known[recipe] = _run(tmp_path_factory.mktemp("undisturbed"), training_faces, FULL | settings, preset=preset)
            _train(known[recipe])
        return known[recipe]

    return train_once


INTERRUPTIONS: dict[str, tuple[str, list[tuple[Callable[[TrainingRun, int], None], int]]]] = {
    "after epoch 3": ("paper", [(_crash_after, 3)]),
    "in the middle of epoch 2": ("paper", [(_stop_in, 2)]),
    "in the middle of epoch 5": ("paper", [(_stop_in, 5)]),
    "additive margin, twice": ("additive margin", [(_stop_in, 2), (_stop_in, 5)]),
    "reference, three times": ("reference", [(_stop_in, 2), (_crash_after, 3), (_stop_in, 5)]),
    "sharpness-aware, backbone frozen": ("sharpness-aware", [(_stop_in, 2), (_stop_in, 3), (_crash_after, 3)]),
}
QUICK = ("in the middle of epoch 2", "sharpness-aware, backbone frozen")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in INTERRUPTIONS],
)
def test_a_run_that_was_stopped_and_resumed_equals_the_undisturbed_one_bit_for_bit(
    undisturbed: Callable[[str], TrainingRun], training_faces: Faces, tmp_path: Path, case: str
) -> None:
    recipe, interruptions = INTERRUPTIONS[case]
    preset, settings = RECIPES[recipe]
    run = _run(tmp_path / "run", training_faces, FULL | settings, preset=preset, workers=3)
    for interrupt, epoch in interruptions:
        interrupt(run, epoch)
        torch.manual_seed(99), torch.rand(5)
    rows = _train(run)
    assert rows is not None and [row.phase for row in rows] == ["backbone"] * 2 + ["network"] * 4
    _assert_equal(run, undisturbed(recipe))


@pytest.mark.slow
def test_the_state_that_is_compared_holds_everything_that_moves(undisturbed: Callable[[str], TrainingRun]) -> None:
    for recipe in RECIPES:
        state = _state(undisturbed(recipe))
        module = state["step_module"]
        assert state["average"].keys() < {name.removeprefix("network.") for name in module}
        assert differences(state["average"]["classifier.2.weight"], module["network.classifier.2.weight"]) != []
        assert len(state["rows"]) == 6 and {"exp_avg", "exp_avg_sq", "step"} <= state["optimizer"]["state"][0].keys()
        if recipe == "additive margin":
            assert "auxiliary.directions" in module
        else:
            assert module["auxiliary.centers"].any()
            assert float(module["auxiliary.update_rate"]) == pytest.approx(0.05 * 0.9**4)


def test_a_signal_stops_between_two_steps_and_keeps_them(training_faces: Faces, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", training_faces, SHORT)
    with pytest.raises(KeyboardInterrupt):
        launch(run, lambda report, _: signal.raise_signal(signal.SIGINT))
    assert _state(run)["step"] == 1 and len(_state(run)["sums"]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps: list[int] = []
    launch(run, lambda report, _: steps.append(report.step))
    assert steps == [1]


def test_a_second_signal_is_not_waited_for(training_faces: Faces, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", training_faces, SHORT)

    def signal_twice(_report: StepReport, _rows: list[EpochRow]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second signal was waited for")

    with pytest.raises(KeyboardInterrupt):
        launch(run, signal_twice)
    assert not run.state_path.exists()


def _poison(network: nn.Module) -> None:
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))


@pytest.mark.parametrize(("epoch", "batch"), [(1, 1), (2, 2)])
def test_a_lost_loss_is_kept_with_its_faces_and_costs_no_epoch(
    training_faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, batch: int
) -> None:
    run = _run(tmp_path / "run", training_faces, SHORT | {"epochs": 3})
    made: list[nn.Module] = []
    make_network = pipelines.training.run.make_network
    monkeypatch.setattr(
        pipelines.training.run, "make_network", lambda config: made.append(make_network(config)) or made[-1]
    )
    saved: list[dict[str, Any]] = []

    def on_step(report: StepReport, _rows: list[EpochRow]) -> None:
        if (report.epoch * 2 + report.step + 1) == (epoch - 1) * 2 + batch - 1:
            saved.extend([_state(run)] if run.state_path.exists() else [])
            _poison(made[0])

    if (epoch, batch) == (1, 1):
        monkeypatch.setattr(pipelines.training.run, "make_network", lambda config: _poisoned(make_network(config)))
    with pytest.raises(TrainingDivergedError) as caught:
        _train(run, on_step=on_step)
    message, path = str(caught.value), run.folder / "diverged-0.safetensors"
    assert "the loss became nan" in message and f"in epoch {epoch}, batch {batch} (videos video" in message
    assert str(path) in message and "--lr" in message and "warmup_steps" in message
    with safe_open(path, "pt") as file:
        metadata, inputs, labels = file.metadata(), file.get_tensor("inputs"), file.get_tensor("labels")
    paths = metadata["faces"].splitlines()
    label_of = {str(face.path): face.label for face in training_faces[0]}
    assert (metadata["epoch"], metadata["step"]) == (str(epoch), str(batch))
    assert inputs.shape == (4, 3, 32, 32) and labels.tolist() == [label_of[path] for path in paths] == [0, 1, 0, 1]
    assert temporary_files(run.folder) == []
    assert run.state_path.exists() == (epoch > 1)
    if saved:
        assert differences(_state(run), saved[0]) == []
        assert all(value.isfinite().all() for value in _state(run)["step_module"].values())


def _poisoned(network: nn.Module) -> nn.Module:
    _poison(network)
    return network


def test_curves_a_table_and_attention_pictures_tell_of_the_run(
    training_faces: Faces, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = _run(tmp_path / "run", training_faces, SHORT | {"epochs": 3, "backbone_epochs": 1})
    with caplog.at_level(logging.WARNING):
        _stop_in(run, 2)
        rows = _train(run)
    assert rows is not None and caplog.messages == []
    with (run.folder / "log.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == LOG_COLUMNS
    assert [float(line["val_auc"]) for line in lines] == [row.val_auc for row in rows]
    assert all(float(line[name]) > 0 for line in lines for name in SPEED_COLUMNS if name != "loader_share")
    pictures = sorted((run.folder / "attention").iterdir())
    assert [picture.name for picture in pictures] == [f"epoch-00{number}.jpg" for number in (1, 2, 3)]
    assert all(np.ptp(cv2.imread(str(picture))) > 0 for picture in pictures)
    assert list((run.folder / "tensorboard").glob("events.out.tfevents.*"))


def test_precision_bf16_trains_on_a_cpu(training_faces: Faces, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", training_faces, SHORT | {"precision": "bf16"})
    reports: list[StepReport] = []
    rows = launch(run, lambda report, _: reports.append(report))
    assert all(np.isfinite(value) for report in reports for value in report.losses.values())
    assert np.isfinite(rows[0].val_log_loss)
    exact = _run(tmp_path / "exact", training_faces, SHORT)
    (first, *_), seen = reports, []
    launch(exact, lambda report, _: seen.append(report))
    assert first.losses["ce"] != seen[0].losses["ce"] and first.losses["ce"] == pytest.approx(
        seen[0].losses["ce"], rel=0.1
    )
    assert all(value.dtype != torch.bfloat16 for value in _state(run)["step_module"].values())


def test_precision_on_a_cpu_is_32_unless_bf16_is_asked_for() -> None:
    cpu = torch.device("cpu")
    assert [choose_precision(asked, cpu) for asked in ("auto", "float32", "bf16")] == ["float32", "float32", "bf16"]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision float16 needs a GPU; use float32 or bf16"):
        choose_precision("float16", cpu)


@pytest.mark.parametrize(("asked", "backbone_epochs"), [(True, 0), (False, 0), (True, 1), (False, 1)])
def test_what_each_phase_calls_is_compiled_when_that_is_asked_for(
    training_faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool, backbone_epochs: int
) -> None:
    compiled: list[type[nn.Module]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self)))
    settings = SHORT | {"epochs": 2, "backbone_epochs": backbone_epochs}
    _train(_run(tmp_path / "run", training_faces, settings, compile=asked))
    assert compiled == ([EfficientNet] * backbone_epochs + [MultiAttentionDetector]) * asked


def test_the_memory_for_faces_is_what_was_asked_for(
    training_faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    def note(self: Trainer, images: Any, *_: Any, **__: Any) -> None:
        limits.append(images._cache._limit_bytes)

    monkeypatch.setattr(Trainer, "run_epoch", note)
    for gigabytes in (0.0, 0.25):
        assert _train(_run(tmp_path / "run", training_faces, SHORT, cache_gb=gigabytes)) is None
    assert limits == [0, 250_000_000]


def test_the_checkpoint_holds_the_averaged_weights_and_their_epoch(
    undisturbed: Callable[[str], TrainingRun], training_faces: Faces
) -> None:
    run = undisturbed("reference")
    header = read_header(run.folder / "last.safetensors")
    assert (header.model, header.provenance["epoch"]) == ("multi-attention/reference", 6)
    with safe_open(run.folder / "last.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert differences(weights, _state(run)["average"]) == []
    assert to_network_input([np.zeros((32, 32, 3), np.uint8)], header.preprocessing).shape == (1, 3, 32, 32)

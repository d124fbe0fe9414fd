"""Two processes learn what one learns from the same batches; what happens in them comes back to the one that started them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import load_file, save_file

import weights
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.data.faces import Face
from pipelines.errors import ConfigError, StorageError, TrainingDivergedError
from pipelines.records import EpochRow
from pipelines.training.config import TrainOptions, make_train_config
from pipelines.training.launch import check_devices, launch, make_fabric
from pipelines.training.loop import StepReport
from pipelines.training.run import TrainingRun
from pipelines.workspace.manifest import Provenance
from tests.conftest import CROP_BOX, Image

EXACT = {
    "backbone": "mobilenetv2_imagenet",
    "padding": "same",
    "input_size": 64,
    "crop_box": CROP_BOX,
    "epochs": 4,
    "backbone_epochs": 1,
    "batch_size": 8,
    "samples_per_epoch": 40,
    "learning_rate": 1e-5,
    "schedule": "constant",
    "freeze_batch_norm": True,
    "drop_path_rate": 0.0,
    "attention_dropout": 0.0,
    "final_dropout": 0.0,
    "agda.noise": 0.0,
    "precision": "float32",
}
"""Twenty steps in which nothing depends on how a batch is cut: no statistics of a process's own, no noise of its own."""
TOLERANCE = 1e-4
Faces = tuple[list[Face], list[Face]]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, list[Image]]) -> Faces:
    """Four crops of a genuine and of a forged face, which the embedded checkpoint gives sensible activations."""
    folder = tmp_path_factory.mktemp("crops")
    made = []
    for number in range(8):
        label, name = number % 2, ("real", "fake")[number % 2]
        path = folder / f"{number}.png"
        aligned = cv2.resize(face_pictures[name][number // 2], (380, 380))
        cv2.imwrite(str(path), cv2.cvtColor(aligned, cv2.COLOR_RGB2BGR))
        made.append(Face(path, label, f"video{number}"))
    return made, made


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone of the embedded checkpoint, for networks whose other parts are of another shape."""
    state = load_file(Path(weights.__file__).parent / "multi-attention-default.safetensors")
    prefix = "backbone.net."
    path = tmp_path_factory.mktemp("body") / "body.safetensors"
    save_file({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}, path)
    return path


def _run(folder: Path, faces: Faces, preset: str, settings: dict[str, Any], *, devices: int) -> TrainingRun:
    contract = Preprocessing(input_size=64, crop_box=CROP_BOX)
    config = make_train_config(preset, EXACT | settings)
    folder.mkdir(exist_ok=True)
    return TrainingRun(
        folder, config, TrainOptions(device="cpu", devices=devices), contract, Provenance("train", 1, {}, None), *faces
    )


def _train(run: TrainingRun) -> list[StepReport]:
    reports: list[StepReport] = []
    launch(run, lambda report, _rows: reports.append(report))
    return reports


def _loss_difference(reports: list[StepReport], others: list[StepReport]) -> float:
    """The largest over all steps and losses, relative to losses above 1."""
    assert [(report.epoch, report.step) for report in reports] == [(report.epoch, report.step) for report in others]
    return max(
        abs(value - there.losses[name]) / max(1, abs(value))
        for here, there in zip(reports, others, strict=True)
        for name, value in here.losses.items()
    )


def _state_differences(run: TrainingRun, other: TrainingRun) -> dict[str, float]:
    """The largest between centres and between weights, and that of the gradients' running means as a share."""
    here, there = (torch.load(each.state_path, weights_only=True) for each in (run, other))
    weights = {
        name: float((value.double() - there["step_module"][name].double()).abs().max())
        for name, value in here["step_module"].items()
    }
    moments, others = (
        torch.cat([each["exp_avg"].flatten() for each in state["optimizer"]["state"].values()])
        for state in (here, there)
    )
    assert moments.norm() > 0.01
    return {
        "centers": weights.pop("auxiliary.centers"),
        "weights": max(weights.values()),
        "gradients": float((moments - others).norm() / moments.norm()),
    }


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path, faces: Faces, body: Path) -> None:
    settings = {"init": str(body), "ril.update_rate": 0.5}  # so high that the way through the centres counts
    one, two = (_run(tmp_path / str(count), faces, "reference", settings, devices=count) for count in (1, 2))
    reports, others = _train(one), _train(two)
    assert len(reports) == 20 and {"ce", "ce_augmented", "auxiliary", "match"} <= reports[-1].losses.keys()
    assert _loss_difference(reports, others) < TOLERANCE
    differences = _state_differences(one, two)
    assert max(differences["centers"], differences["weights"]) < TOLERANCE
    assert differences["gradients"] < 100 * TOLERANCE


def _train_until_stopped(run: TrainingRun, steps: int) -> list[StepReport]:
    """Ctrl-C when so many steps are reported; the processes end one of the next."""
    reports: list[StepReport] = []

    def on_step(report: StepReport, _rows: list[EpochRow]) -> None:
        reports.append(report)
        if len(reports) == steps:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch(run, on_step)
    return reports


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_after_steps_that_one_would_have_made(tmp_path: Path, faces: Faces) -> None:
    settings = {"init": "multi-attention-default", "epochs": 40, "learning_rate": 3e-6}
    one, two = (_run(tmp_path / str(count), faces, "paper", settings, devices=count) for count in (1, 2))
    others = _train_until_stopped(two, 20)
    assert 20 <= len(others) < 40
    reports = _train_until_stopped(one, len(others))
    assert _loss_difference(reports, others) < TOLERANCE
    differences = _state_differences(one, two)
    assert max(differences["centers"], differences["weights"]) < TOLERANCE
    assert differences["gradients"] < 100 * TOLERANCE
    (following,) = _train_until_stopped(replace(two, options=one.options), 1)
    assert 5 * following.epoch + following.step == len(others)


@pytest.mark.slow
def test_a_lost_loss_in_a_process_comes_back_as_what_it_is(tmp_path: Path, faces: Faces) -> None:
    settings = {"init": "multi-attention-default", "learning_rate": 1e30, "epochs": 2}
    run = _run(tmp_path / "run", faces, "paper", settings, devices=2)
    with pytest.raises(TrainingDivergedError, match=r"in epoch 1, batch \d \(videos video"):
        _train(run)
    assert (run.folder / "diverged-0.safetensors").is_file() and not run.state_path.exists()


@pytest.mark.parametrize(
    ("devices", "settings"), [(3, {}), (8, {}), (2, {"accumulate": 4})], ids=["uneven", "one face each", "parts"]
)
def test_a_batch_that_can_not_be_divided_is_refused(devices: int, settings: dict[str, Any]) -> None:
    config = make_train_config("paper", batch_size=8, **settings)
    with pytest.raises(ConfigError, match=f"a batch of 8 cannot be divided evenly among {devices} devices"):
        check_devices(config, TrainOptions(device="cpu", devices=devices))


def test_one_device_by_number_is_not_several() -> None:
    config = make_train_config("paper", batch_size=8)
    with pytest.raises(ConfigError, match="names one device"):
        check_devices(config, TrainOptions(device="cpu:0", devices=2))


def test_variables_of_a_cluster_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SLURM_NTASKS": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "a",
        "LOCAL_RANK": "3",
        "NODE_RANK": "2",
    }
    for name, value in {**variables, "WORLD_SIZE": "4", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    fabric = make_fabric(make_train_config("paper", precision="float32"), TrainOptions(device="cpu", devices=2))
    environment = fabric.strategy.cluster_environment  # type: ignore[attr-defined]
    assert (fabric.world_size, environment.node_rank(), environment.main_address) == (2, 0, "127.0.0.1")
    assert not environment.creates_processes_externally and environment.main_port > 1024


@pytest.mark.slow
def test_an_error_of_the_first_process_reaches_all(tmp_path: Path, faces: Faces) -> None:
    settings = {"init": "multi-attention-default", "epochs": 2}
    run = _run(tmp_path / "run", faces, "paper", settings, devices=2)
    (run.folder / "last.safetensors" / "in the way").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"last.safetensors"):
        _train(run)

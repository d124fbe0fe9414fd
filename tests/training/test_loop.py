"""A tiny training run: what each epoch trains, at which rate, with which losses, and which epoch is the best."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.checkpoints.preprocessing import Preprocessing, to_network_input
from pipelines.data.faces import Face, FaceImages
from pipelines.records import EpochRow
from pipelines.training.config import TrainConfig, make_train_config
from pipelines.training.loop import Diverged, StepReport, Trainer, ValidationScores
from pipelines.training.losses import RegionalIndependenceLoss
from pipelines.training.run import make_network
from tests.support import differences

SETTINGS = {
    "backbone": "mobilenetv2_imagenet",
    "input_size": 32,
    "epochs": 2,
    "backbone_epochs": 1,
    "batch_size": 4,
    "samples_per_epoch": 8,
    "mid_features": 16,
    "drop_path_rate": 0.0,
    "precision": "float32",
}
DEFAULT_CHECKPOINT = {"init": "multi-attention-default", "num_attentions": 4, "mid_features": 256, "input_size": 64}
"""Weights with sensible statistics, for tests that freeze them."""
OnStep = Callable[[StepReport], None]


@pytest.fixture
def images(training_faces: tuple[list[Face], list[Face]]) -> tuple[FaceImages, FaceImages]:
    contract = Preprocessing(input_size=32)
    return FaceImages(training_faces[0], contract), FaceImages(training_faces[1], contract)


def _config(**settings: Any) -> TrainConfig:
    return make_train_config("paper", SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})


def _trainer(**settings: Any) -> Trainer:
    config = _config(**settings)
    return Trainer(make_network(config), config)


def _run(trainer: Trainer, images: tuple[FaceImages, FaceImages], *, on_step: OnStep = lambda report: None) -> EpochRow:
    report = trainer.run_epoch(*images, workers=1, on_step=on_step)
    assert report is not None
    return report.row


def _run_all(trainer: Trainer, images: tuple[FaceImages, FaceImages], *, on_step: OnStep = lambda _: None) -> None:
    while not trainer.is_done:
        _run(trainer, images, on_step=on_step)


def _centers(trainer: Trainer) -> RegionalIndependenceLoss:
    assert isinstance(trainer.step_module.auxiliary, RegionalIndependenceLoss)
    return trainer.step_module.auxiliary


def _gradients(trainer: Trainer) -> Tensor:
    """The gradient of the first step, which Adam keeps a tenth of."""
    moments = [state["exp_avg"].flatten() for state in trainer.optimizer.state_dict()["state"].values()]
    return torch.cat(moments) / 0.1


def test_the_seed_makes_the_run(images: tuple[FaceImages, FaceImages]) -> None:
    first, again, other = (_trainer(backbone_epochs=0, epochs=1, seed=seed) for seed in (1, 1, 2))
    for trainer in (first, again, other):
        _run(trainer, images)
    assert differences(first.state_dict(), again.state_dict()) == []
    assert "/step_module/network.classifier.2.weight" in differences(first.state_dict(), other.state_dict())


def test_the_first_phase_trains_the_backbone_alone_and_the_second_everything_else(
    images: tuple[FaceImages, FaceImages],
) -> None:
    trainer = _trainer()
    ril = _centers(trainer)

    def parts() -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in trainer.network.named_parameters()}

    def moved(before: dict[str, Tensor]) -> set[str]:
        names = {name for name, value in parts().items() if not torch.equal(value, before[name])}
        return {"head" if ".classifier." in name else name.split(".")[0] for name in names}

    start = parts()
    row = _run(trainer, images)
    assert moved(start) == {"backbone", "head"}
    assert (row.epoch, row.phase, row.train_auxiliary, row.train_ce_augmented) == (1, "backbone", None, None)
    assert row.train_loss == row.train_ce
    assert not ril.centers.any() and float(ril.update_rate) == pytest.approx(0.05)

    middle = parts()
    row = _run(trainer, images)
    assert moved(middle) == {"backbone", "attention", "texture", "local_head", "global_head", "classifier"}
    assert (row.epoch, row.phase, row.images, row.val_videos) == (2, "network", 8, 4)
    assert row.train_auxiliary is not None and row.train_ce_augmented is not None and row.attention_cosine is not None
    assert ril.centers.any() and float(ril.update_rate) == pytest.approx(0.045)


def test_the_loss_is_equation_5_with_the_degraded_images_as_a_third_term(
    images: tuple[FaceImages, FaceImages],
) -> None:
    trainer = _trainer(epochs=1, backbone_epochs=0, ril__weight=0.25, agda__ce_weight=0.5, agda__match_weight=2.0)
    seen: list[dict[str, float]] = []
    row = _run(trainer, images, on_step=lambda report: seen.append(report.losses))
    assert len(seen) == 2
    for losses in seen:
        assert losses["auxiliary"] > 1 and losses["ce"] != losses["ce_augmented"]
        expected = losses["ce"] + 0.25 * losses["auxiliary"] + 0.5 * losses["ce_augmented"] + 2 * losses["match"]
        assert losses["total"] == pytest.approx(expected, rel=1e-5)
    assert row.train_loss == pytest.approx(np.mean([losses["total"] for losses in seen]))
    assert row.train_auxiliary == pytest.approx(np.mean([losses["auxiliary"] for losses in seen]))
    assert row.train_match == pytest.approx(np.mean([losses["match"] for losses in seen]))


AUGMENTED_EPOCHS: dict[str, tuple[dict[str, Any], list[bool]]] = {
    "all of the full network": ({"epochs": 5, "backbone_epochs": 2}, [False, False, True, True, True]),
    "the last ones": ({"epochs": 4, "agda__last_epochs": 2}, [False, False, True, True]),
    "more than there are": ({"epochs": 3, "backbone_epochs": 2, "agda__last_epochs": 9}, [False, False, True]),
    "none": ({"epochs": 3, "agda__mode": "none"}, [False, False, False]),
    "never with one map": ({"epochs": 2, "num_attentions": 1}, [False, False]),
}


@pytest.mark.parametrize("case", AUGMENTED_EPOCHS)
def test_epochs_with_attention_guided_augmentation(case: str) -> None:
    settings, expected = AUGMENTED_EPOCHS[case]
    trainer = _trainer(**{"backbone_epochs": 0} | settings)
    assert [trainer.augments(epoch) for epoch in range(trainer.config.epochs)] == expected


def test_one_map_has_neither_regional_independence_nor_augmentation(images: tuple[FaceImages, FaceImages]) -> None:
    row = _run(_trainer(epochs=1, backbone_epochs=0, num_attentions=1), images)
    assert row.train_auxiliary is None and row.train_ce_augmented is None and row.attention_cosine is None
    assert row.train_loss == row.train_ce


RATES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant": ({}, [1, 1, 1, 1]),
    "cosine after a warm-up": ({"schedule": "cosine", "warmup_steps": 2}, [1 / 3, 2 / 3, 1, 0.5]),
    "steps": ({"schedule": "step", "step_epochs": 1, "step_factor": 0.25}, [1, 1, 0.25, 0.25]),
}


@pytest.mark.parametrize("case", RATES)
def test_each_phase_runs_through_the_whole_schedule(images: tuple[FaceImages, FaceImages], case: str) -> None:
    settings, factors = RATES[case]
    trainer = _trainer(
        epochs=4, backbone_epochs=2, learning_rate=1e-4, backbone_lr_factor=0.1, agda__mode="none", **settings
    )
    told: list[float] = []
    applied: list[list[float]] = []

    def on_step(report: StepReport) -> None:
        told.append(report.learning_rate)
        applied.append([group["lr"] for group in trainer.optimizer.param_groups])

    _run_all(trainer, images, on_step=on_step)
    expected = [1e-4 * factor for factor in factors]
    assert told == pytest.approx(expected * 2)
    assert [rate for rates in applied[:4] for rate in rates] == pytest.approx(expected)
    assert [backbone for backbone, _ in applied[4:]] == pytest.approx([0.1 * rate for rate in expected])
    assert [rest for _, rest in applied[4:]] == pytest.approx(expected)
    assert [row.learning_rate for row in trainer.rows] == pytest.approx([expected[1], expected[3]] * 2)


def test_the_optimiser_begins_anew_with_the_phase(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(agda__mode="none")
    steps: list[set[int]] = []

    def on_step(_report: StepReport) -> None:
        steps.append({int(state["step"]) for state in trainer.optimizer.state_dict()["state"].values()})

    _run_all(trainer, images, on_step=on_step)
    assert steps == [{1}, {2}, {1}, {2}]


def test_a_backbone_factor_of_zero_trains_only_the_rest_of_the_network(
    images: tuple[FaceImages, FaceImages],
) -> None:
    trainer = _trainer(epochs=1, backbone_epochs=0, backbone_lr_factor=0.0, weight_decay=0.1)
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    _run(trainer, images)
    moved = {
        name.split(".")[0] for name, value in trainer.network.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved and "backbone" not in moved


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(images: tuple[FaceImages, FaceImages], sam: float) -> None:
    settings = DEFAULT_CHECKPOINT | {
        "epochs": 1, "backbone_epochs": 0, "samples_per_epoch": 4, "auxiliary": "none", "freeze_batch_norm": True,
        "sam": sam,
    }  # fmt: skip
    whole, parts = _trainer(**settings), _trainer(**settings, accumulate=2)
    rows = [_run(trainer, images) for trainer in (whole, parts)]
    assert rows[0].train_ce_augmented is not None
    for name in ("train_loss", "train_ce", "train_ce_augmented"):
        assert getattr(rows[0], name) == pytest.approx(getattr(rows[1], name), rel=1e-4)
    expected = _gradients(whole)
    assert expected.norm() > 0.1
    assert (_gradients(parts) - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize(
    ("clip_norm", "is_clipped", "sam"), [(0.01, True, 0.0), (1e6, False, 0.0), (0.01, True, 0.05), (1e6, False, 0.05)]
)
def test_gradients_are_clipped_to_their_norm(
    images: tuple[FaceImages, FaceImages], clip_norm: float, is_clipped: bool, sam: float
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "backbone_epochs": 0, "samples_per_epoch": 4, "weight_decay": 0.0}
    free, clipped = _trainer(**settings, sam=sam), _trainer(**settings, sam=sam, clip_norm=clip_norm)
    told: list[float] = []
    for trainer in (free, clipped):
        _run(trainer, images, on_step=lambda report: told.append(report.gradient_norm))
    norm = float(_gradients(free).norm())
    expected = clip_norm if is_clipped else norm
    assert float(_gradients(clipped).norm()) == pytest.approx(expected, rel=1e-3)
    assert told == pytest.approx([norm] * 2, rel=1e-3)


class _Recorder:
    """What every pass of the step module was given, and the weights and random states that it began with."""

    def __init__(self, trainer: Trainer) -> None:
        self.passes: list[dict[str, Any]] = []
        trainer.step_module.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        generator = kwargs["generator"].get_state()
        self.passes.append(
            {
                "args": args,
                "kwargs": {name: value for name, value in kwargs.items() if name != "generator"},
                "state": {name: value.detach().clone() for name, value in module.state_dict().items()},
                "random": torch.get_rng_state(),
                "generator": generator,
            }
        )


def _repeat_pass(module: nn.Module, seen: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
    """The same pass in a copy of the step module: the loss, and its gradients by name."""
    torch.set_rng_state(seen["random"])
    generator = torch.Generator()
    generator.set_state(seen["generator"])
    names, parameters = zip(*module.named_parameters(), strict=True)
    total = module(*seen["args"], **seen["kwargs"], generator=generator).total
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    gradients = {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}
    return float(total.detach()), gradients


SHARP: dict[str, dict[str, Any]] = {
    "the whole network": {"backbone_epochs": 0, "epochs": 1},
    "the backbone alone": {"backbone_epochs": 1, "epochs": 2},
    "a frozen backbone": {"backbone_epochs": 0, "epochs": 1, "freeze_backbone_epochs": 1},
    "a backbone at rate 0": {"backbone_epochs": 0, "epochs": 1, "backbone_lr_factor": 0.0},
}


@pytest.mark.parametrize("case", SHARP)
def test_a_sharpness_aware_step_is_that_of_two_passes_by_hand(images: tuple[FaceImages, FaceImages], case: str) -> None:
    """Dropout, drop path, noise and AGDA's choices are the same in both passes; buffers move by the first alone."""
    trainer = _trainer(
        samples_per_epoch=4, sam=0.05, drop_path_rate=0.5, final_dropout=0.5, agda__noise=0.1, ril__update_rate=0.5,
        weight_decay=0.0, ema_decay=0.75, agda__remap="sigmoid", **SHARP[case],
    )  # fmt: skip
    is_frozen = case in ("a frozen backbone", "a backbone at rate 0")
    copied, recorder = copy.deepcopy(trainer.step_module).train(), _Recorder(trainer)
    start = copy.deepcopy(copied.state_dict())
    told: list[float] = []
    buffers: dict[str, Tensor] = {}

    def on_step(report: StepReport) -> None:
        told.append(report.losses["total"])
        buffers.update({name: buffer.clone() for name, buffer in trainer.step_module.named_buffers()})

    _run(trainer, images, on_step=on_step)
    first, second = recorder.passes
    assert differences([first[name] for name in ("random", "generator")], [second["random"], second["generator"]]) == []
    assert differences(first["state"], start) == []

    total, gradients = _repeat_pass(copied, first)
    assert told == pytest.approx([total], rel=1e-6)
    assert differences(buffers, dict(copied.named_buffers())) == []
    moving = [name for name in gradients if not (is_frozen and "backbone" in name)]
    assert set(differences(second["state"], start)) <= {f"/{name}" for name in moving}
    moved, plain = (
        torch.cat([each[name].double().flatten() for name in moving])
        for each in ({name: second["state"][name].double() - start[name] for name in moving}, gradients)
    )
    assert (moved - 0.05 * plain / plain.norm()).norm() < 1e-3 * 0.05

    copied.load_state_dict(second["state"])
    _, sharp = _repeat_pass(copied, second)
    names = {id(parameter): name for name, parameter in trainer.step_module.named_parameters()}
    order = [names[id(each)] for group in trainer.optimizer.param_groups for each in group["params"]]
    moments = trainer.optimizer.state_dict()["state"]
    got = {order[index]: state["exp_avg"] / 0.1 for index, state in moments.items()}
    assert got.keys() == (set(moving) if case == "a frozen backbone" else gradients.keys())
    expected, found = (torch.cat([each[name].double().flatten() for name in moving]) for each in (sharp, got))
    assert (found - expected).norm() < 1e-3 * expected.norm() < 0.02 * (plain - expected).norm()
    for name, parameter in trainer.step_module.named_parameters():
        if name in moving:
            step = 1e-3 * got[name] / (got[name].abs() + 1e-8)
            torch.testing.assert_close(parameter.detach(), start[name] - step, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(parameter, start[name])
    average = trainer.average.state_dict()
    for name, value in trainer.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(average[name], 0.75 * start[f"network.{name}"] + 0.25 * value)


@pytest.mark.parametrize("bad_pass", [1, 2])
def test_a_loss_that_is_not_finite_in_either_pass_ends_the_run_before_the_weights_move(
    images: tuple[FaceImages, FaceImages], monkeypatch: pytest.MonkeyPatch, bad_pass: int
) -> None:
    trainer = _trainer(backbone_epochs=0, epochs=1, sam=0.05)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    cross_entropy, calls = trainer.step_module._cross_entropy, itertools.count()

    def spoil(logits: Tensor, labels: Tensor) -> Tensor:
        clean_and_degraded_passes, is_degraded = divmod(next(calls), 2)
        loss = cross_entropy(logits, labels)
        return loss * float("nan") if clean_and_degraded_passes == bad_pass - 1 and is_degraded else loss

    monkeypatch.setattr(trainer.step_module, "_cross_entropy", spoil)
    with pytest.raises(Diverged) as caught:
        _run(trainer, images)
    assert np.isfinite(caught.value.report.losses["total"]) == (bad_pass == 2)
    assert np.isnan(caught.value.report.gradient_norm)
    changed = differences(before, trainer.network.state_dict())
    assert all("running" in name or "num_batches" in name for name in changed)


@pytest.mark.parametrize("preset", ["paper", "backbone"])
def test_the_backbone_is_frozen_in_the_first_epochs_of_the_whole_network(
    images: tuple[FaceImages, FaceImages], preset: str
) -> None:
    settings = {"epochs": 4, "backbone_epochs": 1, "samples_per_epoch": 4, "freeze_backbone_epochs": 2}
    config = make_train_config(preset, SETTINGS | settings | {"weight_decay": 0.1, "optimizer": "adamw"})
    trainer = Trainer(make_network(config), config)
    moved: list[set[str]] = []
    while not trainer.is_done:
        before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
        _run(trainer, images)
        after = trainer.network.state_dict()
        moved.append(
            {
                f"{'frozen' if name.startswith(('backbone', 'net')) and 'classifier' not in name else 'rest'} "
                f"{'statistics' if 'running' in name or 'num_batches' in name else 'weights'}"
                for name, value in before.items()
                if not torch.equal(value, after[name])
            }
        )
    everything = {"frozen statistics", "frozen weights", "rest weights"}
    kept = {"frozen statistics", "rest weights"}
    if preset == "backbone":  # has no phase that trains a backbone alone
        assert moved == [kept, kept, everything, everything]
    else:
        rest = {"rest statistics"}
        assert moved == [everything, kept | rest, kept | rest, everything | rest]


def test_the_average_is_exponential_over_all_steps(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(ema_decay=0.75)
    expected = {name: value.clone() for name, value in trainer.network.state_dict().items()}

    def follow(_report: StepReport) -> None:
        for name, value in trainer.network.state_dict().items():
            expected[name] = 0.75 * expected[name] + 0.25 * value if value.is_floating_point() else value.clone()

    _run_all(trainer, images, on_step=follow)
    average, network = trainer.average.state_dict(), trainer.network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, atol=1e-6, rtol=1e-5)
    assert (average["classifier.2.weight"] - network["classifier.2.weight"]).abs().max() > 1e-5


def test_without_averaging_the_network_itself_is_validated_and_saved(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer()
    _run(trainer, images)
    assert trainer.average is trainer.network and trainer.state_dict()["average"] is None


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_batch_norms_keep_their_statistics(images: tuple[FaceImages, FaceImages], frozen: bool) -> None:
    trainer = _trainer(freeze_batch_norm=frozen, learning_rate=1e-6)
    norms = [module for module in trainer.network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]  # type: ignore[union-attr]
    weight = norms[0].weight.detach().clone()
    _run_all(trainer, images)
    kept = [
        torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)  # type: ignore[arg-type]
        for norm, (mean, variance) in zip(norms, before, strict=True)
    ]
    assert kept == [frozen] * len(norms)
    assert not torch.equal(norms[0].weight, weight)


@pytest.mark.parametrize(("smoothing", "expected"), [(0.0, 0.0), (0.4, 0.2 * 12)])
def test_label_smoothing_reaches_the_loss(smoothing: float, expected: float) -> None:
    """Logits of 12 against 0 for the right class cost 12 times the share that smoothing gives to the other."""
    trainer = _trainer(label_smoothing=smoothing, agda__mode="none", auxiliary="none")
    with torch.no_grad():
        last = trainer.network.get_submodule("classifier.2")
        last.weight.fill_(0), last.bias.copy_(torch.tensor([12.0, 0.0]))
    losses = trainer.step_module(
        torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long), "network", augments=False,
        generator=torch.Generator(),
    )  # fmt: skip
    assert losses.total.item() == pytest.approx(expected, abs=1e-4)


def test_every_epoch_draws_the_frames_of_a_video_anew(
    images: tuple[FaceImages, FaceImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(epochs=6, backbone_epochs=5, samples_per_epoch=4, agda__mode="none")
    drawn: list[int] = []
    read = images[0].training_view

    def note(index: int, rng: np.random.Generator) -> Any:
        drawn.append(index)
        return read(index, rng)

    monkeypatch.setattr(images[0], "training_view", note)
    _run_all(trainer, images)
    epochs = [sorted(drawn[start : start + 4]) for start in range(0, 24, 4)]
    assert all(len({images[0].faces[index].video_id for index in epoch}) == 4 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1 and set(drawn) == set(range(8))


@pytest.mark.parametrize(("share", "blends"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_self_blends_have_their_share_of_each_epoch_and_count_as_fake(
    training_faces: tuple[list[Face], list[Face]], monkeypatch: pytest.MonkeyPatch, share: float, blends: int
) -> None:
    trainer = _trainer(epochs=4, self_blend=share)
    faces = [FaceImages(side, Preprocessing(input_size=32), self_blends=True) for side in training_faces]
    seen: list[Any] = []

    def note(batch: Any, *_: Any) -> StepReport:
        seen.append(batch)
        trainer.step += 1
        return StepReport(0, 0, 2, {"total": 1.0}, 1e-3, 1.0)

    monkeypatch.setattr(trainer, "_run_step", note)
    _give_aucs(trainer, monkeypatch, [0.5] * 4)
    _run_all(trainer, (faces[0], faces[1]))
    assert len(seen) == 8 and all(batch.labels.tolist() == [0, 1, 0, 1] for batch in seen)
    indices = np.array([batch.indices for batch in seen]).reshape(4, 4, 2)
    blended = indices[..., 0] == indices[..., 1]
    assert blended.sum(axis=1).tolist() == [blends] * 4
    assert all(faces[0].faces[index].label == 1 for index in indices[~blended][:, 1])
    assert (len({row.tobytes() for row in blended}) > 1) == (share == 0.5), "other places in each epoch"


def test_validation_is_of_the_averaged_network_by_video(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(epochs=1, backbone_epochs=0, ema_decay=0.75)
    row = _run(trainer, images)
    validation = images[1]
    trainer.average.eval()
    by_video: dict[str, list[float]] = {}
    with torch.no_grad():
        for index, face in enumerate(validation.faces):
            inputs = to_network_input([validation.evaluation_image(index)], validation.contract)
            real, fake = trainer.average(inputs).logits[0].double().tolist()
            by_video.setdefault(face.video_id, []).append(1 / (1 + np.exp(real - fake)))
    scores = {video: float(np.mean(values)) for video, values in by_video.items()}
    fakes = [score for video, score in scores.items() if video.endswith("-1")]
    reals = [score for video, score in scores.items() if video.endswith("-0")]
    assert len(fakes) == len(reals) == 2
    assert row.val_auc == np.mean([(fake > real) + 0.5 * (fake == real) for fake in fakes for real in reals])
    expected = -np.mean([np.log(fake) for fake in fakes] + [np.log(1 - real) for real in reals])
    assert row.val_log_loss == pytest.approx(expected, rel=1e-4)


def test_validation_leaves_the_training_state_alone(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.validate(images[1], "network")
    trainer.validate(images[1], "backbone")
    assert differences(before, trainer.network.state_dict()) == []


def _give_aucs(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, aucs: list[float]) -> None:
    scores = iter(ValidationScores(auc, 0.5, 4, None) for auc in aucs)
    monkeypatch.setattr(trainer, "validate", lambda *_: next(scores))


def test_the_best_epoch_is_the_best_of_its_own_phase(
    images: tuple[FaceImages, FaceImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(epochs=6, backbone_epochs=2, samples_per_epoch=4, agda__mode="none")
    _give_aucs(trainer, monkeypatch, [0.9, 0.8, 0.5, 0.7, 0.7, 0.75])
    _run_all(trainer, images)
    assert [row.is_best for row in trainer.rows] == [True, False, True, True, False, True]


STOPS: dict[str, tuple[int, list[float], int]] = {
    "two epochs without a rise": (2, [0.9, 0.5, 0.5, 0.6, 0.7, 0.7, 0.65, 0.99], 7),
    "a rise comes in time": (2, [0.9, 0.5, 0.5, 0.6, 0.55, 0.7, 0.65, 0.75], 8),
    "the first phase may fall for long": (1, [0.9, 0.8, 0.7, 0.6, 0.6, 0.9, 0.9, 0.9], 5),
    "no patience set": (0, [0.5] * 8, 8),
}


@pytest.mark.parametrize("case", STOPS)
def test_training_stops_early_when_the_full_network_no_longer_gains(
    images: tuple[FaceImages, FaceImages], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    patience, aucs, stops_after = STOPS[case]
    trainer = _trainer(epochs=8, backbone_epochs=3, patience=patience, samples_per_epoch=4, agda__mode="none")
    monkeypatch.setattr(trainer, "_run_step", lambda *_: StepReport(0, 0, 1, {"total": 1.0}, 1e-3, 1.0))
    _give_aucs(trainer, monkeypatch, aucs)
    _run_all(trainer, images)
    assert trainer.finished_epochs == stops_after


@pytest.mark.parametrize(("asked", "expected"), [(0, 2), (3, 1), (4, 1), (7, 1), (20, 5)])
def test_an_epoch_is_whole_batches_and_at_least_one(
    images: tuple[FaceImages, FaceImages], asked: int, expected: int
) -> None:
    assert _trainer(samples_per_epoch=asked).steps_per_epoch(images[0]) == expected


def test_the_network_learns_to_tell_noise_from_checkers(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(epochs=6, samples_per_epoch=16, mid_features=256)
    _run_all(trainer, images)
    assert trainer.rows[-1].val_auc == 1.0
    assert trainer.rows[-1].train_ce < 0.5 * trainer.rows[1].train_ce

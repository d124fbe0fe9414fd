"""A tiny training run: it resumes bit for bit, stops when the loss is lost, and averages its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.config import TrainConfig
from pipelines.data.faces import Face, FaceImages
from pipelines.errors import TrainingDivergedError
from pipelines.models.multi_attention.config import MultiAttentionConfig
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.preprocessing import Preprocessing, to_network_input
from pipelines.records import EpochRow
from pipelines.training.loop import StepLosses, Trainer

CONFIG = TrainConfig(
    backbone="mobilenetv2_imagenet",
    input_size=64,
    epochs=2,
    backbone_epochs=1,
    train_batch_size=4,
    samples_per_epoch=8,
    schedule="cosine",
    warmup_steps=2,
    ema_decay=0.75,
)
CONTRACT = Preprocessing(input_size=64)


def _ignore(_step: int, _steps: int, _losses: StepLosses) -> None:
    return None


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Face], list[Face]]:
    """Training and validation crops: noise is real, checkers are fake; two faces a video."""
    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    checkers = np.indices((380, 380)).sum(axis=0) // 20 % 2
    made: list[Face] = []
    for number in range(16):
        label, video = number % 2, f"video{number // 4}-{number % 2}"
        noise = rng.integers(0, 256, (380, 380, 3))
        image = np.repeat((checkers * (120 + 8 * number))[..., None], 3, axis=2) if label else noise
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image.astype(np.uint8))
        made.append(Face(path, label, video))
    return made[:8], made[8:]


@pytest.fixture
def images(faces: tuple[list[Face], list[Face]]) -> tuple[FaceImages, FaceImages]:
    return FaceImages(faces[0], CONTRACT), FaceImages(faces[1], CONTRACT)


def _trainer(config: TrainConfig = CONFIG, *, seed: int = 0) -> Trainer:
    torch.manual_seed(seed)
    network = MultiAttentionDetector(
        MultiAttentionConfig(
            backbone=config.backbone, num_attentions=config.num_attentions, drop_path_rate=config.drop_path_rate
        )
    )
    return Trainer(network, config, torch.device("cpu"))


def _run(
    trainer: Trainer,
    images: tuple[FaceImages, FaceImages],
    *,
    workers: int = 1,
    on_step: Callable[[int, int, StepLosses], None] = _ignore,
) -> EpochRow:
    return trainer.run_epoch(*images, workers=workers, on_step=on_step)


def _tensors(value: Any, name: str = "") -> dict[str, Any]:
    """A nested state as flat names and values."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = dict(enumerate(value)).items()
    else:
        return {name: value}
    return {key: leaf for part, inner in items for key, leaf in _tensors(inner, f"{name}/{part}").items()}


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    left, right = _tensors(a), _tensors(b)
    assert left.keys() == right.keys()
    return [
        name
        for name, value in left.items()
        if not (torch.equal(value, right[name]) if isinstance(value, Tensor) else value == right[name])
    ]


@pytest.mark.parametrize("finished", [1, 2], ids=["after the backbone's epoch", "after an epoch of the network"])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    images: tuple[FaceImages, FaceImages], tmp_path: Path, finished: int
) -> None:
    config = replace(CONFIG, epochs=finished + 1)
    undisturbed = _trainer(config)
    for _ in range(finished):
        _run(undisturbed, images)
    torch.save(undisturbed.state_dict(), tmp_path / "state.pt")
    _run(undisturbed, images)

    resumed = _trainer(config, seed=99)
    torch.rand(5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.finished_epochs == len(resumed.rows) == finished
    _run(resumed, images, workers=3)

    assert _differences(undisturbed.state_dict(), resumed.state_dict()) == []
    assert torch.equal(undisturbed.ril.centers, resumed.ril.centers) and resumed.ril.centers.any()
    assert undisturbed.rows == resumed.rows and len(resumed.rows) == finished + 1


def test_the_seed_makes_the_run(images: tuple[FaceImages, FaceImages]) -> None:
    config = replace(CONFIG, backbone_epochs=0, epochs=1)
    first, again, other = (_trainer(replace(config, seed=seed)) for seed in (1, 1, 2))
    for trainer in (first, again, other):
        _run(trainer, images)
    assert _differences(first.state_dict(), again.state_dict()) == []
    assert "/network/classifier.2.weight" in _differences(first.state_dict(), other.state_dict())


def test_the_first_phase_trains_the_backbone_alone_and_the_second_everything_else(
    images: tuple[FaceImages, FaceImages],
) -> None:
    trainer = _trainer()

    def parts() -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in trainer.network.named_parameters()}

    def moved(before: dict[str, Tensor]) -> set[str]:
        names = {name for name, value in parts().items() if not torch.equal(value, before[name])}
        return {"head" if ".classifier." in name else name.split(".")[0] for name in names}

    start = parts()
    row = _run(trainer, images)
    assert moved(start) == {"backbone", "head"}
    assert (row.epoch, row.phase, row.train_ril, row.train_ce_augmented) == (1, "backbone", None, None)
    assert row.train_loss == row.train_ce
    assert not trainer.ril.centers.any() and float(trainer.ril.update_rate) == pytest.approx(0.05)

    middle = parts()
    row = _run(trainer, images)
    assert moved(middle) == {"backbone", "attention", "texture", "local_head", "global_head", "classifier"}
    assert (row.epoch, row.phase, row.images, row.val_videos) == (2, "network", 8, 4)
    assert row.train_ril is not None and row.train_ce_augmented is not None
    assert trainer.ril.centers.any() and float(trainer.ril.update_rate) == pytest.approx(0.045)


def test_the_loss_is_equation_5_with_the_degraded_images_as_a_third_term(
    images: tuple[FaceImages, FaceImages],
) -> None:
    trainer = _trainer(replace(CONFIG, epochs=1, backbone_epochs=0, ril_weight=0.25))
    seen: list[StepLosses] = []
    row = _run(trainer, images, on_step=lambda _step, _steps, losses: seen.append(losses))
    assert len(seen) == 2
    for losses in seen:
        assert losses.ril is not None and losses.ce_augmented is not None
        assert losses.ril > 1 and losses.ce != losses.ce_augmented
        assert losses.total == pytest.approx(losses.ce + 0.25 * losses.ril + losses.ce_augmented, rel=1e-5)
    assert row.train_loss == pytest.approx(np.mean([losses.total for losses in seen]))
    assert row.train_ril == pytest.approx(np.mean([losses.ril for losses in seen if losses.ril is not None]))


AUGMENTED_EPOCHS: dict[str, tuple[dict[str, Any], list[bool]]] = {
    "all of the full network": ({"epochs": 5, "backbone_epochs": 2}, [False, False, True, True, True]),
    "the last ones": ({"epochs": 4, "augment_epochs": 2}, [False, False, True, True]),
    "more than there are": ({"epochs": 3, "backbone_epochs": 2, "augment_epochs": 9}, [False, False, True]),
    "none": ({"epochs": 3, "augment": "none"}, [False, False, False]),
    "never with one map": ({"epochs": 2, "num_attentions": 1}, [False, False]),
}


@pytest.mark.parametrize("case", AUGMENTED_EPOCHS)
def test_epochs_with_attention_guided_augmentation(case: str) -> None:
    settings, expected = AUGMENTED_EPOCHS[case]
    config = replace(CONFIG, **({"backbone_epochs": 0} | settings))
    trainer = _trainer(config)
    assert [trainer.augments(epoch) for epoch in range(config.epochs)] == expected


def test_one_map_has_neither_regional_independence_nor_augmentation(images: tuple[FaceImages, FaceImages]) -> None:
    row = _run(_trainer(replace(CONFIG, epochs=1, backbone_epochs=0, num_attentions=1)), images)
    assert row.train_ril is None and row.train_ce_augmented is None
    assert row.train_loss == row.train_ce


def test_the_learning_rate_follows_the_schedule_over_the_whole_run(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer()
    rates: list[float] = []
    rows = [
        _run(trainer, images, on_step=lambda *_: rates.append(trainer.optimizer.param_groups[0]["lr"]))
        for _ in range(2)
    ]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 0.5e-3])
    assert [row.learning_rate for row in rows] == pytest.approx([2e-3 / 3, 0.5e-3])


def test_the_average_is_exponential_over_all_steps(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer()
    expected = {name: value.clone() for name, value in trainer.network.state_dict().items()}

    def follow(_step: int, _steps: int, _losses: StepLosses) -> None:
        for name, value in trainer.network.state_dict().items():
            expected[name] = 0.75 * expected[name] + 0.25 * value if value.is_floating_point() else value.clone()

    for _ in range(2):
        _run(trainer, images, on_step=follow)
    average, network = trainer.average.state_dict(), trainer.network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, atol=1e-6, rtol=1e-5)
    assert (average["classifier.2.weight"] - network["classifier.2.weight"]).abs().max() > 1e-5


def test_without_averaging_the_network_itself_is_validated_and_saved(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(replace(CONFIG, ema_decay=0.0))
    _run(trainer, images)
    assert trainer.average is trainer.network
    state = trainer.state_dict()
    assert state["average"] is None
    resumed = _trainer(replace(CONFIG, ema_decay=0.0), seed=5)
    resumed.load_state_dict(state)
    assert _differences(resumed.state_dict(), state) == []


@pytest.mark.parametrize(
    ("poisoned_epoch", "after_step", "named"), [(1, 0, "epoch 1, batch 1"), (2, 1, "epoch 2, batch 2")]
)
def test_a_lost_loss_names_its_epoch_and_batch(
    images: tuple[FaceImages, FaceImages], poisoned_epoch: int, after_step: int, named: str
) -> None:
    trainer = _trainer()

    def poison(step: int, _steps: int, _losses: StepLosses) -> None:
        if trainer.finished_epochs + 1 == poisoned_epoch and step == after_step:
            with torch.no_grad():
                trainer.network.backbone.net.conv_stem.weight.fill_(float("nan"))

    poison(0, 0, StepLosses())
    with pytest.raises(TrainingDivergedError, match=f"the loss became nan in {named}; lower --lr"):
        for _ in range(2):
            _run(trainer, images, on_step=poison)
    assert len(trainer.rows) == trainer.finished_epochs == poisoned_epoch - 1


def test_validation_is_of_the_averaged_network_by_video(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(replace(CONFIG, epochs=1, backbone_epochs=0))
    row = _run(trainer, images)
    validation = images[1]
    trainer.average.eval()
    by_video: dict[str, list[float]] = {}
    with torch.no_grad():
        for index, face in enumerate(validation.faces):
            inputs = to_network_input([validation.evaluation_image(index)], CONTRACT)
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
    trainer = _trainer(replace(CONFIG, ema_decay=0.0))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.validate(images[1], "network")
    trainer.validate(images[1], "backbone")
    assert _differences(before, trainer.network.state_dict()) == []


def test_the_best_epoch_is_the_best_of_its_own_phase(
    images: tuple[FaceImages, FaceImages], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(replace(CONFIG, epochs=6, backbone_epochs=2, samples_per_epoch=4, augment="none"))
    aucs = iter([0.9, 0.8, 0.5, 0.7, 0.7, 0.75])
    monkeypatch.setattr(trainer, "validate", lambda *_: (next(aucs), 0.5, 4))
    rows = [_run(trainer, images) for _ in range(6)]
    assert [row.is_best for row in rows] == [True, False, True, True, False, True]


@pytest.mark.parametrize(("asked", "expected"), [(0, 8), (3, 4), (4, 4), (7, 4), (20, 20)])
def test_an_epoch_is_whole_batches_and_at_least_one(
    images: tuple[FaceImages, FaceImages], asked: int, expected: int
) -> None:
    assert _trainer(replace(CONFIG, samples_per_epoch=asked)).samples_per_epoch(images[0]) == expected


def test_the_network_learns_to_tell_noise_from_checkers(images: tuple[FaceImages, FaceImages]) -> None:
    trainer = _trainer(
        replace(CONFIG, epochs=6, backbone_epochs=1, samples_per_epoch=16, schedule="constant", drop_path_rate=0.0)
    )
    rows = [_run(trainer, images) for _ in range(6)]
    assert rows[-1].val_auc == 1.0
    assert rows[-1].train_ce < 0.5 * rows[1].train_ce

"""One training step is equation 5 with the choices of the settings: every term is computed again from the outputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.models import build_model
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.training.attention_augmentation import AttentionAugmentation, Degraded
from pipelines.training.config import TrainConfig, make_train_config
from pipelines.training.losses import AdditiveMarginLoss, RegionalIndependenceLoss, match_loss
from pipelines.training.step import StepLosses, TrainingStep
from tests.models import reference
from tests.networks import random_images

SIZE = 64
LABELS = torch.tensor([0, 1, 1, 0])
SMALL = {
    "network.backbone": "mobilenetv2_imagenet",
    "network.mid_features": 16,
    "network.drop_path_rate": 0.0,
}
UNDROPPED = {"network.attention_dropout": 0.0, "network.final_dropout": 0.0}
"""Without them the two passes of a comparison would draw different numbers."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("paper", {}),
    "reference": ("reference", {}),
    "weights": ("paper", {"ril.weight": 0.3, "agda.ce_weight": 0.7, "agda.match_weight": 0.2}),
    "replace": ("paper", {"agda.use": "replace"}),
    "replace, weighted": ("reference", {"agda.use": "replace", "agda.ce_weight": 0.6}),
    "smoothed labels": ("paper", {"optimization.label_smoothing": 0.2}),
    "additive margin": ("paper", {"auxiliary": "ams", "ams.weight": 0.4}),
    "no auxiliary loss": ("reference", {"auxiliary": "none"}),
    "hard": ("paper", {"agda.mode": "hard"}),
    "two maps": ("reference", {"network.num_attentions": 2}),
}


def _config(preset: str, **settings: Any) -> TrainConfig:
    return make_train_config(preset, settings)


def _step(preset: str = "paper", seed: int = 0, settings: dict[str, Any] | None = None) -> TrainingStep:
    """In training mode."""
    small = SMALL if preset == "backbone" else SMALL | UNDROPPED
    config = _config(preset, **(small | (settings or {})))
    torch.manual_seed(seed)
    overrides = {"drop_path_rate": 0.0} if preset == "backbone" else vars(config.network)
    network = build_model(config.model, **overrides)
    return TrainingStep(network, config).train()  # type: ignore[arg-type]


def _run(
    step: TrainingStep, *, augments: bool = True, images: Tensor | None = None, labels: Tensor = LABELS
) -> StepLosses:
    torch.manual_seed(0)
    images = random_images(4, SIZE) if images is None else images
    losses: StepLosses = step(images, labels, "network", augments=augments, generator=torch.Generator().manual_seed(0))
    return losses


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The mean over images of - sum p log q, with p = 1 - smoothing on the label and smoothing spread over both."""
    shares = torch.full_like(logits, smoothing / 2)
    shares[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(shares * (logits - logits.exp().sum(dim=1, keepdim=True).log())).sum(dim=1).mean()


def _recompute(step: TrainingStep, *, augments: bool) -> StepLosses:
    """The same from the network's outputs, on copies."""
    config, network = step.config, step.network
    auxiliary = copy.deepcopy(step.auxiliary)
    torch.manual_seed(0)
    images, smoothing = random_images(4, SIZE), config.optimization.label_smoothing
    clean = network(images)
    ce = _cross_entropy(clean.logits, LABELS, smoothing)
    total = 0 * ce if augments and config.agda.use == "replace" else ce
    separation = None
    if auxiliary is not None:
        separation = auxiliary(clean.region_vectors, LABELS)
        total = total + {"ril": config.ril.weight, "ams": config.ams.weight}[config.auxiliary] * separation
    if not augments:
        return StepLosses(total, ce=ce, auxiliary=separation)
    maps = clean.attention_maps.detach()
    degraded_images, drawn = AttentionAugmentation(config.agda)(images, maps, torch.Generator().manual_seed(0))
    degraded = network(degraded_images)
    ce_augmented = _cross_entropy(degraded.logits, LABELS, smoothing)
    match = match_loss(clean.region_vectors, degraded.region_vectors, drawn)
    total = total + config.agda.ce_weight * ce_augmented + config.agda.match_weight * match
    return StepLosses(total, ce, ce_augmented, separation, match if config.agda.match_weight else None)


def _gradients(step: TrainingStep, total: Tensor) -> dict[str, Tensor]:
    step.zero_grad(set_to_none=True)
    total.backward()
    return {name: p.grad.clone() for name, p in step.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("augments", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_total_and_its_gradient_are_the_weighted_sum_of_all_terms(case: str, augments: bool) -> None:
    preset, settings = CASES[case]
    step = _step(preset, settings=settings)
    expected = _recompute(step, augments=augments)
    expected_gradients = _gradients(step, expected.total)
    losses = _run(step, augments=augments)
    for name in ("total", "ce", "ce_augmented", "auxiliary", "match"):
        got, wanted = getattr(losses, name), getattr(expected, name)
        assert (got is None) == (wanted is None), name
        if got is not None:
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    gradients = _gradients(step, losses.total)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        apart = (gradient - expected_gradients[name]).norm()
        assert apart <= 0.02 * expected_gradients[name].norm() + 1e-5, name


def test_the_published_weights_are_those_of_equation_5_and_of_the_authors_code() -> None:
    for preset, expected in (("paper", (1.0, 1.0, 0.0)), ("reference", (0.5, 1.0, 0.1))):
        config = make_train_config(preset)
        assert (config.ril.weight, config.agda.ce_weight, config.agda.match_weight) == expected


def test_in_replace_mode_the_clean_images_teach_nothing_but_the_separation_of_maps() -> None:
    step = _step(settings={"agda.use": "replace", "auxiliary": "none"})
    losses = _run(step)
    assert losses.ce is not None and losses.ce_augmented is not None
    torch.testing.assert_close(losses.total, losses.ce_augmented)
    assert _run(step, augments=False).ce_augmented is None
    torch.testing.assert_close(_run(step, augments=False).total, _run(step, augments=False).ce)


def test_the_degraded_images_alone_teach_the_whole_network() -> None:
    step = _step(settings={"agda.use": "replace", "auxiliary": "none"})
    gradients = _gradients(step, _run(step).total)
    for part in (
        "backbone.net.conv_stem.weight",
        "attention.conv.weight",
        "texture.stem.weight",
        "classifier.0.weight",
    ):
        assert gradients[part].any(), part


@pytest.mark.parametrize("use", ["second-pass", "replace"])
def test_the_augmentation_gets_the_images_with_maps_that_carry_no_gradient(use: str) -> None:
    step, seen = _step(settings={"agda.use": use}), []

    def record(images: Tensor, maps: Tensor, generator: torch.Generator, *, rank: int, world_size: int) -> Degraded:
        seen.append((images, maps, generator, rank, world_size))
        return Degraded(images * 0.5, torch.zeros(len(images), dtype=torch.long))

    step.agda = record  # type: ignore[assignment]
    images, generator = random_images(4, SIZE), torch.Generator()
    step(images, LABELS, "network", augments=True, generator=generator, rank=2, world_size=3)
    ((got, maps, handed_on, rank, world_size),) = seen
    assert got is images and handed_on is generator and (rank, world_size) == (2, 3)
    assert not maps.requires_grad and maps.shape == (4, 4, 4, 4)


def _moved(centers: Tensor, vectors: Tensor, step: TrainingStep) -> Tensor:
    """Equation 4 with the settings of the step."""
    pulls = vectors - centers
    if step.config.ril.centers == "real":
        pulls = pulls * (LABELS == 0)[:, None, None]
    return centers + 0.05 * pulls.sum(dim=0) / len(LABELS)


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("augments", [False, True])
def test_centres_move_by_the_clean_images_and_on_demand_by_the_degraded_ones(
    preset: str, double: bool, augments: bool
) -> None:
    step = _step(preset, settings={"ril.double_update": double})
    assert isinstance(step.auxiliary, RegionalIndependenceLoss)
    step.auxiliary.centers.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    before, vectors = step.auxiliary.centers.clone(), []
    step.network.register_forward_hook(lambda _module, _inputs, output: vectors.append(output.region_vectors.detach()))
    _run(step, augments=augments)
    expected = _moved(before, vectors[0], step)
    if double and augments:
        expected = _moved(expected, vectors[1], step)
    torch.testing.assert_close(step.auxiliary.centers, expected, atol=1e-6, rtol=1e-5)
    assert step.auxiliary.centers.grad_fn is None


def test_the_published_steps_move_the_centres_once_and_the_authors_twice() -> None:
    assert not make_train_config("paper").ril.double_update
    assert make_train_config("reference").ril.double_update


def test_centres_stay_in_evaluation() -> None:
    step = _step("reference").eval()
    assert isinstance(step.auxiliary, RegionalIndependenceLoss)
    _run(step)
    assert not step.auxiliary.centers.any()


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_the_backbone_phase_trains_the_backbone_with_its_own_head_alone(preset: str) -> None:
    step = _step(preset, settings={"optimization.label_smoothing": 0.1})
    images = random_images(4, SIZE)
    losses = step(images, LABELS, "backbone", augments=True, generator=torch.Generator())
    assert losses.total is losses.ce
    assert losses.ce_augmented is losses.auxiliary is losses.match is losses.attention_cosine is None
    network = step.network
    assert isinstance(network, MultiAttentionDetector)
    torch.testing.assert_close(losses.ce, _cross_entropy(network.classify_backbone(images), LABELS, 0.1))
    gradients = _gradients(step, losses.total)
    assert all(name.startswith("backbone.") for name in gradients) and gradients["backbone.net.classifier.weight"].any()
    assert isinstance(step.auxiliary, RegionalIndependenceLoss) and not step.auxiliary.centers.any()


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("paper", {"network.num_attentions": 1}),
        ("reference", {"network.num_attentions": 1}),
        ("paper", {"network.num_attentions": 1, "auxiliary": "ams", "agda.use": "replace"}),
        ("backbone", {}),
    ],
)
@pytest.mark.parametrize("augments", [False, True])
def test_one_map_or_none_is_trained_by_cross_entropy_alone(
    preset: str, settings: dict[str, Any], augments: bool
) -> None:
    step = _step(preset, settings=settings)
    losses = _run(step, augments=augments)
    assert losses.total is losses.ce
    assert losses.ce_augmented is losses.auxiliary is losses.match is losses.attention_cosine is None
    assert step.auxiliary is None
    torch.testing.assert_close(losses.ce, _cross_entropy(step.network(random_images(4, SIZE)).logits, LABELS, 0.0))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"auxiliary": "ril"}, RegionalIndependenceLoss),
        ({"auxiliary": "ams"}, AdditiveMarginLoss),
        ({"auxiliary": "none"}, type(None)),
    ],
)
def test_the_auxiliary_loss_is_a_setting_and_has_the_network_s_size(settings: dict[str, Any], kind: type) -> None:
    auxiliary = _step(settings=settings).auxiliary
    assert type(auxiliary) is kind
    sizes = [tuple(value.shape) for value in auxiliary.state_dict().values() if value.ndim] if auxiliary else []
    assert sizes == ([(4, 24)] if auxiliary else [])


def test_the_directions_of_additive_margin_learn_with_the_network() -> None:
    step = _step(settings={"auxiliary": "ams"})
    assert isinstance(step.auxiliary, AdditiveMarginLoss)
    _run(step).total.backward()
    assert "auxiliary.directions" in dict(step.named_parameters())
    assert step.auxiliary.directions.grad is not None and step.auxiliary.directions.grad.any()


def test_the_end_of_an_epoch_slows_the_centres() -> None:
    step = _step()
    step.end_epoch()
    assert isinstance(step.auxiliary, RegionalIndependenceLoss)
    assert float(step.auxiliary.update_rate) == pytest.approx(0.045)
    _step(settings={"auxiliary": "ams"}).end_epoch()
    _step(settings={"auxiliary": "none"}).end_epoch()


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_the_likeness_of_the_clean_images_maps_is_reported_and_not_learned(preset: str) -> None:
    step, maps = _step(preset), []
    step.network.register_forward_hook(lambda _module, _inputs, output: maps.append(output.attention_maps.detach()))
    cosine = _run(step).attention_cosine
    assert cosine is not None and not cosine.requires_grad
    expected = reference.mean_cosine(maps[0].double().numpy())
    assert cosine.item() == pytest.approx(sum(expected) / len(expected), abs=1e-5)


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("augments", [False, True])
def test_losses_are_float32_and_gradients_finite_under_autocast(preset: str, augments: bool) -> None:
    step = _step(preset, settings={"agda.match_weight": 0.1})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = _run(step, augments=augments)
    assert {value.dtype for value in losses if value is not None} == {torch.float32}
    assert all(value.isfinite() for value in losses if value is not None)
    assert all(gradient.isfinite().all() for gradient in _gradients(step, losses.total).values())


def _kill_maps(step: TrainingStep, which: slice) -> None:
    """Maps that are zero everywhere: ELU + 1 is exp(-200) = 0 in float32."""
    assert isinstance(step.network, MultiAttentionDetector)
    norm = step.network.attention.bn
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.bias[which] = -200.0


DEGENERATE = {
    "one dead map": (slice(1, 2), "noise", [0, 1, 1, 0]),
    "all maps dead": (slice(None), "noise", [0, 1, 1, 0]),
    "all maps dead on a constant image": (slice(None), "zeros", [0, 1, 1, 0]),
    "constant images": (slice(0), "constant", [0, 1, 1, 0]),
    "zero images": (slice(0), "zeros", [0, 1, 1, 0]),
    "real images alone": (slice(0), "noise", [0, 0, 0, 0]),
    "fakes alone": (slice(0), "noise", [1, 1, 1, 1]),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_degenerate_batches_have_finite_losses_and_gradients(preset: str, case: str) -> None:
    which, kind, labels = DEGENERATE[case]
    step = _step(preset, settings={"agda.match_weight": 0.1})
    _kill_maps(step, which)
    noise = random_images(4, SIZE)
    images = {"noise": noise, "zeros": 0 * noise, "constant": 0 * noise + 0.7}[kind]
    losses = _run(step, images=images, labels=torch.tensor(labels))
    assert all(value.isfinite() for value in losses if value is not None)
    assert all(gradient.isfinite().all() for gradient in _gradients(step, losses.total).values())
    assert all(value.isfinite().all() for value in step.state_dict().values())


def test_a_constant_channel_of_textures_has_finite_losses_and_gradients() -> None:
    step = _step("reference")
    assert isinstance(step.network, MultiAttentionDetector)
    extract = step.network.texture.extract
    assert isinstance(extract, nn.Conv2d) and extract.bias is not None
    with torch.no_grad():
        extract.weight[3] = 0
        extract.bias[3] = 0.1
    losses = _run(step)
    assert losses.total.isfinite()
    assert all(gradient.isfinite().all() for gradient in _gradients(step, losses.total).values())

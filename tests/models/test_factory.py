"""Networks by name, rebuilt from their configs and from checkpoints that were written before newer settings existed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weights
from pipelines.checkpoints.checkpoint import read_header
from pipelines.checkpoints.weights_files import read_state
from pipelines.models import MODEL_NAMES, build_model, model_config
from pipelines.models.multi_attention.config import PAPER, REFERENCE, MultiAttentionConfig
from pipelines.models.multi_attention.network import MultiAttentionDetector
from tests.networks import random_images

DEFAULT_CHECKPOINT = Path(weights.__file__).parent / "multi-attention-default.safetensors"
FIRST_CONFIG = {
    "backbone": "mobilenetv2_imagenet",
    "texture_tap": "L2",
    "attention_tap": "L5",
    "num_attentions": 4,
    "dense_layers": 3,
    "mid_features": 256,
    "drop_path_rate": 0.0,
}
"""The fields that the first checkpoints have."""
DEFAULT_LOGITS = [[1.122568, -1.247146], [1.286220, -1.412410]]
"""Of the embedded checkpoint, computed by the release that it was published with, for `random_images(2, 160)`."""


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    assert MODEL_NAMES == (
        "multi-attention/paper",
        "multi-attention/reference",
        "f-bifpn-mtlnet/b4",
        "f-bifpn-mtlnet/v2-s",
        "f-bifpn-mtlnet/v2-b3",
        "f-bifpn-mtlnet/small",
        "backbone/<timm name>",
    )
    with pytest.raises(ValueError, match="unknown model 'nope'; known: multi-attention/paper, multi-attention/refer"):
        build_model("nope")


@pytest.mark.parametrize(("name", "config"), [("paper", PAPER), ("reference", REFERENCE)])
def test_a_preset_is_what_build_model_gives_without_overrides(name: str, config: MultiAttentionConfig) -> None:
    with torch.device("meta"):
        network = build_model(f"multi-attention/{name}")
    assert isinstance(network, MultiAttentionDetector)
    assert network.config == config


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("multi-attention/paper", {"backbone": "mobilenetv2_imagenet", "num_attentions": 3, "drop_path_rate": 0.1}),
        ("multi-attention/reference", {"backbone": "mobilenetv2_imagenet", "mid_features": 8, "edge_mask": False}),
        ("backbone/resnet18", {"drop_path_rate": 0.05}),
    ],
)
def test_a_network_is_built_again_from_its_own_config(name: str, overrides: dict[str, Any]) -> None:
    network = build_model(name, **overrides)
    config = model_config(network)
    assert config.items() >= overrides.items()
    again = build_model(name, **config)
    again.load_state_dict(network.state_dict(), strict=True)
    assert model_config(again) == config


def test_a_config_does_not_depend_on_the_preset_that_it_is_applied_to() -> None:
    with torch.device("meta"):
        network = build_model("multi-attention/reference", backbone="mobilenetv2_imagenet")
        again = build_model("multi-attention/paper", **model_config(network))
    assert model_config(again) == model_config(network)


def test_a_plain_classifier_has_logits_and_no_attention() -> None:
    network = build_model("backbone/resnet18").eval()
    with torch.inference_mode():
        output = network(random_images(2, 64))
    assert output.logits.shape == (2, 2)
    assert output.attention_maps is None and output.region_vectors is None
    with pytest.raises(ValueError, match="not one of the project's models: Linear"):
        model_config(nn.Linear(1, 1))


def test_a_config_without_the_newer_fields_is_the_paper_s_network() -> None:
    expected = MultiAttentionConfig(**FIRST_CONFIG)  # type: ignore[arg-type]
    newer = {
        name: value
        for name, value in vars(expected).items()
        if name not in FIRST_CONFIG and value != getattr(PAPER, name)
    }
    assert newer == {}
    assert (expected.padding, expected.bn_momentum, expected.edge_mask) == ("same", None, False)
    assert (expected.attention_head, expected.texture, expected.pooled_norm) == ("conv1x1-relu", "dense", "none")
    assert (expected.attention_dropout, expected.final_dropout) == (0, 0)


def test_the_embedded_checkpoint_loads_strictly_and_computes_what_it_always_did() -> None:
    header = read_header(DEFAULT_CHECKPOINT)
    assert set(header.model_config) >= set(FIRST_CONFIG)
    network = build_model(header.model, **header.model_config).eval()
    network.load_state_dict(read_state(DEFAULT_CHECKPOINT), strict=True)
    with torch.inference_mode():
        output = network(random_images(2, 160))
    torch.testing.assert_close(output.logits, torch.tensor(DEFAULT_LOGITS), atol=2e-5, rtol=0)
    assert output.attention_maps.sum().item() == pytest.approx(79.88084, abs=1e-2)
    assert output.region_vectors.sum().item() == pytest.approx(3.03967, abs=1e-3)

"""Every setting by its path or by a short name that only it has; values as a command line writes them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.training.config import PRESETS, TrainConfig, TrainOptions, make_train_config
from pipelines.training.settings import list_settings, parse_assignments, replace_settings


def _text_of(value: Any) -> str:
    return (
        " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if value is None else str(value)
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_setting_has_a_path_and_comes_back_from_its_own_text(preset: str) -> None:
    config = PRESETS[preset]
    settings = list_settings(config)
    assert {path.split(".")[0] for path in settings} == {field.name for field in fields(TrainConfig)}
    assert replace_settings(config, {path: _text_of(value) for path, value in settings.items()}) == config
    base = "f-bifpn-mtlnet" if preset.startswith("f-bifpn") else "paper"
    assert replace_settings(PRESETS[base], settings) == config


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("epochs", "30", "epochs", 30),
        ("num_attentions", "2", "network.num_attentions", 2),
        ("learning_rate", "1e-4", "optimization.learning_rate", 1e-4),
        ("ril.weight", "0.5", "ril.weight", 0.5),
        ("ams.weight", "2", "ams.weight", 2.0),
        ("weight_decay", "0", "optimization.weight_decay", 0.0),
        ("double_update", "true", "ril.double_update", True),
        ("double_update", "YES", "ril.double_update", True),
        ("freeze_batch_norm", "1", "optimization.freeze_batch_norm", True),
        ("edge_mask", "no", "network.edge_mask", False),
        ("edge_mask", "False", "network.edge_mask", False),
        ("bn_momentum", "0.01", "network.bn_momentum", 0.01),
        ("bn_momentum", "none", "network.bn_momentum", None),
        ("bn_momentum", None, "network.bn_momentum", None),
        ("crop_box", "94,118,286,310", "crop_box", (94, 118, 286, 310)),
        ("crop_box", "94 118 286, 310", "crop_box", (94, 118, 286, 310)),
        ("crop_box", [94, 118, 286, 310], "crop_box", (94, 118, 286, 310)),
        ("inner_margins", "0.2 -0.8", "ril.inner_margins", (0.2, -0.8)),
        ("agda.mode", "hard", "agda.mode", "hard"),
        ("mode", "none", "agda.mode", "none"),
        ("precision", "float32", "precision", "float32"),
        ("init", "none", "init", "none"),
        ("backbone", "xception", "network.backbone", "xception"),
        ("drop_path_rate", 0, "network.drop_path_rate", 0.0),
    ],
)
def test_a_value_is_read_as_the_type_of_its_setting(name: str, text: Any, path: str, expected: Any) -> None:
    value = list_settings(make_train_config("reference", {name: text}))[path]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", "1", "the setting 'weight' could be ril.weight or ams.weight; give it in full"),
        ("scale", "1", "the setting 'scale' could be ams.scale or agda.scale; give it in full"),
        ("ril.wieght", "1", "there is no setting 'ril.wieght'; did you mean ril.weight"),
        ("epoch", "1", "there is no setting 'epoch'; did you mean epochs"),
        ("network", "1", "there is no setting 'network'; did you mean "),
        ("epochs.more", "1", "there is no setting 'epochs.more'; did you mean epochs"),
        ("qqqqqq", "1", "there is no setting 'qqqqqq'; --show-settings lists them all"),
        ("", "1", "there is no setting ''"),
        ("epochs", "3.5", "epochs must be a whole number, got '3.5'"),
        ("epochs", 3.5, "epochs must be a whole number, got 3.5"),
        ("epochs", True, "epochs must be a whole number, got True"),
        ("epochs", "many", "epochs must be a whole number, got 'many'"),
        ("learning_rate", "fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate", None, "learning_rate must be a number, got None"),
        ("learning_rate", "nan", "learning_rate must be > 0, got nan"),
        ("edge_mask", "maybe", "edge_mask must be true or false, got 'maybe'"),
        ("bn_momentum", "some", "bn_momentum must be a number, got 'some'"),
        ("agda.mode", "medium", "mode must be one of soft, hard, none, got 'medium'"),
        ("precision", "64", "precision must be one of auto, float32, bf16, float16, got '64'"),
        ("crop_box", "1 2 3", "crop_box takes 4 values, got '1 2 3'"),
        ("crop_box", "1 2 3 x", "crop_box must be a whole number, got 'x'"),
        ("crop_box", 7, "crop_box "),
    ],
)
def test_a_name_or_value_that_does_not_fit_is_refused_with_what_is_possible(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_train_config("paper", {name: value})
    assert message in str(caught.value)


WRONG: dict[str, list[tuple[str, str]]] = {
    "network.padding": [("other", "one of same, static-380")],
    "network.drop_path_rate": [("1", "in [0, 1)"), ("-0.1", "in [0, 1)"), ("nan", "in [0, 1)")],
    "network.bn_momentum": [("0", "in (0, 1]"), ("1.1", "in (0, 1]")],
    "network.num_attentions": [("0", ">= 1"), ("9", "<= 8")],
    "network.attention_head": [("other", "one of conv1x1-relu, conv3x3-elu")],
    "network.edge_mask": [("2", "true or false")],
    "network.texture": [("other", "one of dense, gated-groups")],
    "network.dense_layers": [("0", ">= 1")],
    "network.pooled_norm": [("other", "one of none, instance")],
    "network.attention_dropout": [("1", "in [0, 1)")],
    "network.final_dropout": [("-1", "in [0, 1)")],
    "network.mid_features": [("0", ">= 1")],
    "preset": [("reference", "not a setting itself; use --preset")],
    "input_size": [("0", ">= 1")],
    "crop_box": [("0 0 10 20", "a square x0 y0 x1 y1 inside 0..380"), ("0 0 381 381", "inside 0..380")],
    "normalization": [("other", "one of ")],
    "augment": [("soft", "one of none, flip, robust")],
    "crop_jitter": [("-0.1", "in [0, 0.5"), ("0.6", "in [0, 0.5")],
    "pair_originals": [("other", "true or false")],
    "self_blend": [("-0.1", "in [0, 1]"), ("1.1", "in [0, 1]"), ("nan", "in [0, 1]")],
    "epochs": [("0", ">= 1")],
    "backbone_epochs": [("-1", ">= 0"), ("20", "< epochs (20)")],
    "patience": [("-1", ">= 0")],
    "samples_per_epoch": [("-1", ">= 0")],
    "auxiliary": [("other", "one of ril, ams, none")],
    "ril.weight": [("-1", ">= 0"), ("nan", ">= 0")],
    "ril.distance": [("other", "one of squared, frobenius")],
    "ril.inner_margins": [("1", "takes 2 values")],
    "ril.outer_margin": [("-1", ">= 0")],
    "ril.pairs": [("other", "one of ordered, unordered")],
    "ril.inter_scale": [("other", "one of one, per-map-and-rate")],
    "ril.reduction": [("other", "one of mean, sum")],
    "ril.centers": [("other", "one of all, real")],
    "ril.double_update": [("other", "true or false")],
    "ril.update_rate": [("0", "in (0, 1]"), ("2", "in (0, 1]")],
    "ril.update_rate_decay": [("0", "in (0, 1]"), ("2", "in (0, 1]")],
    "ams.weight": [("-1", ">= 0")],
    "ams.scale": [("0", "> 0")],
    "ams.margin": [("-1", "in [0, 2)"), ("2", "in [0, 2)")],
    "dense.attention_weight": [("-1", ">= 0"), ("nan", ">= 0")],
    "dense.attention_target": [("other", "one of boundary, mask")],
    "dense.mask_weight": [("-1", ">= 0")],
    "dense.focal_gamma": [("-1", "0 or at least 1"), ("0.5", "0 or at least 1")],
    "dense.focal_alpha": [("0", "between 0 and 1"), ("1", "between 0 and 1")],
    "dense.focal_scale": [("-1", ">= 0")],
    "dense.dice_weight": [("-1", ">= 0")],
    "dense.consistency_weight": [("-1", ">= 0")],
    "dense.balanced_consistency": [("other", "true or false")],
    "dense.ramp_epochs": [("-1", ">= 0")],
    "agda.mode": [("other", "one of soft, hard, none")],
    "agda.select": [("other", "one of uniform, sqrt-mass")],
    "agda.normalize": [("other", "one of max, minmax")],
    "agda.scale": [("0", "in (0, 1]"), ("2", "in (0, 1]")],
    "agda.sigma_px": [("0", "> 0")],
    "agda.kernel_px": [("4", "odd"), ("-1", "")],
    "agda.noise": [("-1", ">= 0")],
    "agda.remap": [("other", "one of identity, sigmoid")],
    "agda.remap_threshold": [("1", "takes 2 values")],
    "agda.remap_zoom": [("1", "takes 2 values")],
    "agda.drop_threshold": [("0", "between 0 and 1"), ("1", "between 0 and 1")],
    "agda.use": [("other", "one of second-pass, replace")],
    "agda.ce_weight": [("-1", ">= 0")],
    "agda.match_weight": [("-1", ">= 0")],
    "agda.last_epochs": [("-1", ">= 0")],
    "optimization.optimizer": [("sgd", "one of adam, adamw")],
    "optimization.learning_rate": [("0", "> 0")],
    "optimization.backbone_lr_factor": [("-1", ">= 0")],
    "optimization.weight_decay": [("-1", ">= 0")],
    "optimization.schedule": [("other", "one of constant, cosine, linear, step")],
    "optimization.step_epochs": [("0", ">= 1")],
    "optimization.step_factor": [("0", "in (0, 1]"), ("2", "in (0, 1]")],
    "optimization.warmup_steps": [("-1", ">= 0")],
    "optimization.warmup_share": [("1", "in [0, 1)"), ("-0.1", "in [0, 1)")],
    "optimization.warmup_start": [("1.1", "in [0, 1]"), ("-0.1", "in [0, 1]")],
    "optimization.batch_size": [("0", ">= 1"), ("3", "even")],
    "optimization.accumulate": [("0", ">= 1"), ("5", "even parts"), ("48", "even parts")],
    "optimization.clip_norm": [("-1", ">= 0")],
    "optimization.ema_decay": [("1", "in [0, 1)"), ("-1", "in [0, 1)")],
    "optimization.label_smoothing": [("1", "in [0, 1)"), ("-1", "in [0, 1)")],
    "optimization.freeze_batch_norm": [("other", "true or false")],
    "optimization.freeze_backbone_epochs": [("-1", ">= 0")],
    "optimization.sam": [("-0.1", ">= 0"), ("nan", ">= 0"), ("inf", "must be finite")],
    "precision": [("other", "one of auto, float32, bf16, float16")],
    "val_fraction": [("0", "between 0 and 1"), ("1", "between 0 and 1")],
    "frames": [("0", ">= 1")],
    "seed": [("-1", ">= 0")],
}
CHECKED_LATER = {"init", "network.backbone", "network.texture_tap", "network.attention_tap"}
"""Names of files, networks and layers."""


def test_the_table_of_wrong_values_has_every_setting() -> None:
    assert WRONG.keys() | CHECKED_LATER == list_settings(TrainConfig()).keys()


@pytest.mark.parametrize(("path", "value", "rule"), [(path, *case) for path, cases in WRONG.items() for case in cases])
def test_a_wrong_value_of_any_setting_is_refused_with_its_name_and_rule(path: str, value: str, rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_train_config("paper", {path: value})
    assert path.rpartition(".")[2] in str(caught.value) and rule in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"warmup_steps": 5, "warmup_share": 0.1},
            "warmup_share must be 0 if warmup_steps is set (to 5), got 0.1",
        ),
        (
            {"sam": 0.05, "precision": "float16"},
            "optimization.sam must be 0 with precision float16, whose loss scaler skips steps (use bf16), got 0.05",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_train_config("paper", settings)
    assert str(caught.value) == message
    for name in settings:
        make_train_config("paper", {name: settings[name]})


def test_assignments_are_a_name_and_a_value() -> None:
    assert parse_assignments(["ril.weight=0.5", " init = a=b ", "epochs="]) == {
        "ril.weight": "0.5", "init": "a=b", "epochs": "",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["ril.weight", "=5", " =5", ""])
def test_an_assignment_without_a_name_or_a_sign_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set takes NAME=VALUE, such as ril.weight=0.5, got"):
        parse_assignments([text])


def test_settings_are_given_by_path_or_by_name() -> None:
    config = make_train_config("reference", {"ril.weight": 0.25, "num_attentions": 2}, epochs=30, learning_rate="1e-3")
    assert (config.ril.weight, config.network.num_attentions, config.epochs) == (0.25, 2, 30)
    assert config.optimization.learning_rate == 1e-3
    reference = PRESETS["reference"]
    assert replace(config.ril, weight=reference.ril.weight) == reference.ril and config.agda == reference.agda


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'best'; known: paper, reference, backbone"):
        make_train_config("best")


def test_the_presets_are_those_of_the_paper_and_of_the_published_code() -> None:
    paper, reference, backbone = (PRESETS[name] for name in ("paper", "reference", "backbone"))
    assert paper == TrainConfig() == make_train_config()
    assert (paper.model, paper.auxiliary, paper.agda.mode, paper.separates_maps) == (
        "multi-attention/paper", "ril", "soft", True,
    )  # fmt: skip
    assert (reference.model, reference.ril.distance, reference.network.texture) == (
        "multi-attention/reference", "frobenius", "gated-groups",
    )  # fmt: skip
    assert (backbone.model, backbone.separates_maps) == ("backbone/tf_efficientnet_b4", False)
    assert not make_train_config(num_attentions=1).separates_maps
    for preset in PRESETS.values():
        assert all(is_dataclass(getattr(preset, name)) for name in ("network", "ril", "ams", "agda", "optimization"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices must be >= 1, got 0"),
        ({"cache_gb": -1.0}, "cache_gb must be >= 0, got -1.0"),
        ({"workers": -1}, "workers must be >= 0, got -1"),
    ],
)
def test_wrong_run_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainOptions(**options)

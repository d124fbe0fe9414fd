"""Settings of `train`: every choice that the published tables and the two implementations differ in, by name.

Read by the command line, so nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.config import (
    ALIGNED_SIZE_PX,
    DEFAULT_FRAMES,
    MAX_INPUT_SIZE_PX,
    RunOptions,
    check,
    check_choices,
    check_crop_box,
)
from pipelines.errors import ConfigError
from pipelines.models.f_bifpn_mtlnet.config import PRESETS as F_BIFPN_PRESETS
from pipelines.models.f_bifpn_mtlnet.config import FBiFPNMTLNetConfig
from pipelines.models.multi_attention.config import PAPER, REFERENCE, MultiAttentionConfig
from pipelines.training.settings import list_settings, replace_settings

Preset = Literal[
    "paper",
    "reference",
    "backbone",
    "f-bifpn-mtlnet",
    "f-bifpn-mtlnet-v2-s",
    "f-bifpn-mtlnet-v2-b3",
    "f-bifpn-mtlnet-small",
]
Auxiliary = Literal["ril", "ams", "none"]
ImageAugment = Literal["none", "flip", "robust"]
TrainPrecision = Literal["auto", "float32", "bf16", "float16"]
Normalization = Literal["auto", "half", "imagenet"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True)
class RegionalIndependenceConfig:
    """Section 3.4, equations 3 and 4. The defaults are the paper's."""

    weight: float = 1.0
    """lambda_2 of equation 5."""
    distance: Literal["squared", "frobenius"] = "squared"
    """`squared`: per map, the sum over the maps. `frobenius`: one distance over all maps of an image, not squared; between
    centres the plain distance."""
    inner_margins: tuple[float, float] = (0.05, 0.1)
    """m_in of real and fake. A negative value repels: the minimum distance of that class."""
    outer_margin: float = 0.2
    """m_out."""
    pairs: Literal["ordered", "unordered"] = "ordered"
    """Whether a pair of centres counts twice, as the sum over i != j is printed, or once."""
    inter_scale: Literal["one", "per-map-and-rate"] = "one"
    """`per-map-and-rate`: the distance between the centres weighs 1 / (M alpha)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the batch. The printed `sum` grows with the batch and swamps a cross-entropy that is a mean."""
    centers: Literal["all", "real"] = "all"
    """Whose vectors move the centres."""
    double_update: bool = False
    """Move the centres a second time in each step, by the degraded images."""
    update_rate: float = 0.05
    """alpha of equation 4."""
    update_rate_decay: float = 0.9
    """Factor of alpha after each epoch."""

    def __post_init__(self) -> None:
        check_choices(self, "ril.")
        check(self.weight >= 0, "ril.weight", "must be >= 0", self.weight)
        check(self.outer_margin >= 0, "ril.outer_margin", "must be >= 0", self.outer_margin)
        check(0 < self.update_rate <= 1, "ril.update_rate", "must be in (0, 1]", self.update_rate)
        check(0 < self.update_rate_decay <= 1, "ril.update_rate_decay", "must be in (0, 1]", self.update_rate_decay)


@dataclass(frozen=True)
class AdditiveMarginConfig:
    """Additive-margin softmax over the regions, the paper's alternative in table 6."""

    weight: float = 1.0
    scale: float = 30.0
    """s."""
    margin: float = 0.35
    """m."""

    def __post_init__(self) -> None:
        check(self.weight >= 0, "ams.weight", "must be >= 0", self.weight)
        check(self.scale > 0, "ams.scale", "must be > 0", self.scale)
        check(0 <= self.margin < 2, "ams.margin", "must be in [0, 2)", self.margin)


@dataclass(frozen=True)
class AttentionAugmentationConfig:
    """Attention-guided data augmentation, section 3.5. The defaults are the paper's."""

    mode: Literal["soft", "hard", "none"] = "soft"
    """`soft`: equation 6, blur where the drawn map looks. `hard`: equation 7, erase there."""
    select: Literal["uniform", "sqrt-mass"] = "uniform"
    """How the map is sampled: uniformly, or weighted by the square root of (its sum + 1)."""
    normalize: Literal["max", "minmax"] = "max"
    """How a map is brought to 0..1; the paper only says normalised."""
    scale: float = 0.3
    """Resize factor of the degraded image."""
    sigma_px: float = 7.0
    """Sigma of the Gaussian blur, in pixels of the reduced image."""
    kernel_px: int = 11
    """Side of the blur's kernel; not printed in the paper, 11 in the authors' code."""
    noise: float = 0.0
    """Standard deviation of the noise added to the reduced image, in normalised units."""
    remap: Literal["identity", "sigmoid"] = "identity"
    """`sigmoid`: sharpen the map; threshold and zoom are drawn once per batch."""
    remap_threshold: tuple[float, float] = (0.4, 0.6)
    remap_zoom: tuple[float, float] = (3.0, 5.0)
    drop_threshold: float = 0.5
    """theta_d of equation 7."""
    use: Literal["second-pass", "replace"] = "second-pass"
    """`second-pass`: the degraded images are learned in addition to the clean ones. `replace`: instead of them."""
    ce_weight: float = 1.0
    """Weight of the cross-entropy of the degraded images."""
    match_weight: float = 0.0
    """Weight of the distance between the region vectors of clean and degraded images, without the selected map."""
    last_epochs: int = 0
    """Number of last epochs that use it; 0 means all epochs of the full network."""

    def __post_init__(self) -> None:
        check_choices(self, "agda.")
        check(0 < self.scale <= 1, "agda.scale", "must be in (0, 1]", self.scale)
        check(self.sigma_px > 0, "agda.sigma_px", "must be > 0", self.sigma_px)
        check(self.kernel_px >= 1, "agda.kernel_px", "must be >= 1", self.kernel_px)
        check(self.kernel_px % 2 == 1, "agda.kernel_px", "must be odd", self.kernel_px)
        for name in ("remap_threshold", "remap_zoom"):
            low, high = getattr(self, name)
            check(0 < low <= high, f"agda.{name}", "must be a range low high above 0", (low, high))
        check(0 < self.drop_threshold < 1, "agda.drop_threshold", "must be between 0 and 1", self.drop_threshold)
        for name in ("noise", "ce_weight", "match_weight", "last_epochs"):
            check(getattr(self, name) >= 0, f"agda.{name}", "must be >= 0", getattr(self, name))


@dataclass(frozen=True)
class DenseSupervisionConfig:
    """What F-BiFPN-MTLNet learns besides the class. The paper prints no loss: each default names its source."""

    attention_weight: float = 1.0
    """Of the cross-entropy of the forgery-attention maps. All weights are ours."""
    attention_target: Literal["boundary", "mask"] = "boundary"
    """`boundary`: 4 M (1 - M), where a face was blended in (Face X-ray, LAA-Net). `mask`: the forged region."""
    mask_weight: float = 1.0
    """Of focal and Dice loss together."""
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    """Both of Lin et al. (2017), which the paper cites."""
    focal_scale: float = 10.0
    """Brings the focal loss, a mean over mostly easy pixels, to the size of the others. Ours."""
    dice_weight: float = 1.0
    """Ours."""
    consistency_weight: float = 1.0
    """PCL has 10 for its plain mean."""
    balanced_consistency: bool = True
    """Weigh pairs of one source and of two alike; about 85 % are of one. Ours; off: PCL's plain mean."""
    ramp_epochs: float = 5.0
    """The three weights rise linearly from 0 over so many epochs. Ours."""

    def __post_init__(self) -> None:
        check_choices(self, "dense.")
        weights = ("attention_weight", "mask_weight", "consistency_weight", "focal_scale", "dice_weight")
        for name in (*weights, "ramp_epochs"):
            check(getattr(self, name) >= 0, f"dense.{name}", "must be >= 0", getattr(self, name))
        gamma = self.focal_gamma
        check(gamma == 0 or gamma >= 1, "dense.focal_gamma", "must be 0 or at least 1", gamma)
        check(0 < self.focal_alpha < 1, "dense.focal_alpha", "must be between 0 and 1", self.focal_alpha)


@dataclass(frozen=True)
class OptimizationConfig:
    """How the weights are updated. Each phase has a separate optimiser and schedule."""

    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    backbone_lr_factor: float = 1.0
    """The backbone's rate as a share of the rest's, in the phase that trains both."""
    weight_decay: float = 1e-6
    schedule: Schedule = "constant"
    step_epochs: int = 5
    """`step`: the rate is multiplied by `step_factor` each time so many epochs of the phase are done."""
    step_factor: float = 0.5
    warmup_steps: int = 0
    """Steps at the start of each phase in which the rate rises linearly."""
    warmup_share: float = 0.0
    """The same as a share of the phase's steps, rounded to whole steps; instead of `warmup_steps`."""
    warmup_start: float = 0.0
    """Factor of the rate that the warm-up rises from. Of n warm-up steps the first is 1 / (n + 1) of the way up."""
    batch_size: int = 48
    """Faces per step over all devices, half real, half fake."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after another, to need less memory. Batch norm sees the parts, and what AGDA draws
    once per batch is drawn for each."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights that is validated and saved; 0 switches it off."""
    label_smoothing: float = 0.0
    freeze_batch_norm: bool = False
    """Use and keep the running statistics that the network starts with."""
    freeze_backbone_epochs: int = 0
    """Epochs at the start of the phase that trains the whole network in which the backbone's weights stay as they are; with
    the preset `backbone`, all but the last layer. Its batch norms work as in training and update their running statistics,
    unless `freeze_batch_norm` is set."""
    sam: float = 0.0
    """rho of sharpness-aware minimisation (Foret et al., 2021): the gradient is taken at the weights moved by rho in the
    direction in which the loss rises fastest. 0 switches it off. Each step takes about twice as long."""

    def __post_init__(self) -> None:
        check(self.learning_rate > 0, "learning_rate", "must be > 0", self.learning_rate)
        check(self.backbone_lr_factor >= 0, "backbone_lr_factor", "must be >= 0", self.backbone_lr_factor)
        for name in ("weight_decay", "warmup_steps", "clip_norm", "freeze_backbone_epochs", "sam"):
            check(getattr(self, name) >= 0, name, "must be >= 0", getattr(self, name))
        for name in ("step_epochs", "accumulate", "batch_size"):
            check(getattr(self, name) >= 1, name, "must be >= 1", getattr(self, name))
        check(0 < self.step_factor <= 1, "step_factor", "must be in (0, 1]", self.step_factor)
        check(0 <= self.warmup_share < 1, "warmup_share", "must be in [0, 1)", self.warmup_share)
        check(
            not (self.warmup_share and self.warmup_steps),
            "warmup_share",
            f"must be 0 if warmup_steps is set (to {self.warmup_steps})",
            self.warmup_share,
        )
        check(0 <= self.warmup_start <= 1, "warmup_start", "must be in [0, 1]", self.warmup_start)
        check(self.batch_size % 2 == 0, "batch_size", "must be even (half real, half fake)", self.batch_size)
        check(
            self.batch_size % (2 * self.accumulate) == 0,
            "accumulate",
            f"must cut the batch of {self.batch_size} into even parts",
            self.accumulate,
        )
        check(0 <= self.ema_decay < 1, "ema_decay", "must be in [0, 1)", self.ema_decay)
        check(0 <= self.label_smoothing < 1, "label_smoothing", "must be in [0, 1)", self.label_smoothing)
        check_choices(self)


SMALL_CROP_BOX = (70, 86, 310, 326)
"""The face with little around it: 240 px of the aligned frame's 380, for a smaller network at a smaller input."""
F_BIFPN_MODELS = {
    "f-bifpn-mtlnet": "b4",
    "f-bifpn-mtlnet-v2-s": "v2-s",
    "f-bifpn-mtlnet-v2-b3": "v2-b3",
    "f-bifpn-mtlnet-small": "small",
}
"""Model by preset."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`; the defaults are the preset `paper` (section 4.1 of the paper)."""

    preset: Preset = "paper"
    """The defaults of the other settings; `backbone` trains a plain classifier, the paper's "EfficientNet-B4" row."""
    network: MultiAttentionConfig | FBiFPNMTLNetConfig = PAPER
    """Of the preset `backbone`, only `backbone`, `drop_path_rate` and `bn_momentum` count."""
    init: str = "none"
    """none, a weights file of the backbone, or a checkpoint file or name."""
    input_size: int = ALIGNED_SIZE_PX
    crop_box: tuple[int, int, int, int] = (0, 0, ALIGNED_SIZE_PX, ALIGNED_SIZE_PX)
    """x0 y0 x1 y1 in the aligned frame, x1 and y1 exclusive."""
    normalization: Normalization = "auto"
    """Mean and deviation that are taken from the input: `half` is 0.5 each, `imagenet` that of most ImageNet weights. `auto`:
    half for `tf_efficientnet` without a tag, as the authors start from AdvProp weights, else what timm says of the weights
    that the backbone's name stands for."""
    augment: ImageAugment = "flip"
    crop_jitter: float = 0.04
    """Random crops extend beyond the crop box by up to this share of it, within the aligned frame."""
    pair_originals: bool = False
    """Pair each fake with a real face of the video it was made from, where that is known."""
    self_blend: float = 0.0
    """Share of the fakes that are real training faces blended with themselves (`self_blending`), 0..1. The real face next to
    each is the target of that blend."""
    epochs: int = 20
    backbone_epochs: int = 0
    """Number of first epochs that train the backbone alone, with plain cross-entropy."""
    patience: int = 0
    """Stop when the validation AUC of the full network has not risen for so many epochs; 0 never stops early."""
    samples_per_epoch: int = 0
    """Faces sampled per epoch, half real and half fake; 0 means as many as there are."""
    auxiliary: Auxiliary = "ril"
    """What keeps the maps apart: regional independence, additive-margin softmax, or nothing."""
    ril: RegionalIndependenceConfig = field(default_factory=RegionalIndependenceConfig)
    ams: AdditiveMarginConfig = field(default_factory=AdditiveMarginConfig)
    agda: AttentionAugmentationConfig = field(default_factory=AttentionAugmentationConfig)
    dense: DenseSupervisionConfig = field(default_factory=DenseSupervisionConfig)
    """`ril`, `ams` and `agda` are of the multi-attention network, `dense` is of F-BiFPN-MTLNet."""
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    precision: TrainPrecision = "auto"
    """`auto`: float32 on a CPU, bf16 on a GPU that supports it."""
    val_fraction: float = 0.1
    """Share of the groups held out when the manifest has no split `val`."""
    frames: int = DEFAULT_FRAMES
    """Frames per video that `predict` uses with this checkpoint."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("input_size", "epochs", "frames"):
            check(getattr(self, name) >= 1, name, "must be >= 1", getattr(self, name))
        check(self.input_size <= MAX_INPUT_SIZE_PX, "input_size", f"must be <= {MAX_INPUT_SIZE_PX}", self.input_size)
        for name in ("backbone_epochs", "patience", "samples_per_epoch", "seed"):
            check(getattr(self, name) >= 0, name, "must be >= 0", getattr(self, name))
        check(
            self.backbone_epochs < self.epochs,
            "backbone_epochs",
            f"must be < epochs ({self.epochs})",
            self.backbone_epochs,
        )
        check(self.seed < 2**32, "seed", "must be < 2**32", self.seed)
        check(0 <= self.crop_jitter < 0.5, "crop_jitter", "must be in [0, 0.5)", self.crop_jitter)
        check(0 <= self.self_blend <= 1, "self_blend", "must be in [0, 1]", self.self_blend)
        for name, value in list_settings(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            check(
                all(math.isfinite(each) for each in numbers if isinstance(each, float)), name, "must be finite", value
            )
        check(
            self.precision != "float16" or not self.optimization.sam,
            "optimization.sam",
            "must be 0 with precision float16, whose loss scaler skips steps (use bf16)",
            self.optimization.sam,
        )
        check(0 < self.val_fraction < 1, "val_fraction", "must be between 0 and 1", self.val_fraction)
        check_crop_box(self.crop_box, ALIGNED_SIZE_PX)
        check_choices(self)
        kind = FBiFPNMTLNetConfig if self.preset in F_BIFPN_MODELS else MultiAttentionConfig
        check(isinstance(self.network, kind), "network", f"must be a {kind.__name__} with this preset", self.network)
        check(
            not (self.learns_masks and self.backbone_epochs),
            "backbone_epochs",
            "must be 0 with this preset, whose backbone has no classifier (freeze_backbone_epochs keeps its weights)",
            self.backbone_epochs,
        )

    @property
    def model(self) -> str:
        """The name that `build_model` knows."""
        if self.preset == "backbone":
            return f"backbone/{self.network.backbone}"
        if self.preset in F_BIFPN_MODELS:
            return f"f-bifpn-mtlnet/{F_BIFPN_MODELS[self.preset]}"
        return f"multi-attention/{self.preset}"

    @property
    def learns_masks(self) -> bool:
        """Whether masks of forged pixels are targets."""
        return isinstance(self.network, FBiFPNMTLNetConfig)

    @property
    def separates_maps(self) -> bool:
        """Whether there are maps to keep apart: the paper trains one map alone without auxiliary loss and augmentation."""
        if self.preset == "backbone" or not isinstance(self.network, MultiAttentionConfig):
            return False
        return self.network.num_attentions > 1


F_BIFPN_RECIPE = TrainConfig(
    preset="f-bifpn-mtlnet",
    network=F_BIFPN_PRESETS["b4"],
    self_blend=1.0,
    augment="robust",
    epochs=100,
    auxiliary="none",
    agda=AttentionAugmentationConfig(mode="none"),
    optimization=OptimizationConfig(
        optimizer="adamw",
        learning_rate=2e-4,
        weight_decay=1e-4,
        schedule="linear",
        warmup_share=0.25,
        warmup_start=0.25,
        batch_size=32,
        label_smoothing=0.1,
        freeze_backbone_epochs=6,
        sam=0.05,
    ),
)
"""After LAA-Net's recipe (self-blends, SAM, schedule, frozen backbone) with the label smoothing that the paper cites."""

PRESETS: dict[str, TrainConfig] = {
    "paper": TrainConfig(),
    "reference": TrainConfig(
        preset="reference",
        network=REFERENCE,
        crop_jitter=0.0,
        epochs=50,
        backbone_epochs=20,
        ril=RegionalIndependenceConfig(
            weight=0.5,
            distance="frobenius",
            inner_margins=(0.2, -0.8),
            outer_margin=0.8,
            pairs="unordered",
            inter_scale="per-map-and-rate",
            centers="real",
            double_update=True,
        ),
        agda=AttentionAugmentationConfig(
            select="sqrt-mass",
            scale=0.5,
            noise=0.1,
            remap="sigmoid",
            match_weight=0.1,
        ),
        optimization=OptimizationConfig(
            optimizer="adamw", learning_rate=1e-4, schedule="step", batch_size=60, step_epochs=5, step_factor=0.5
        ),
    ),
    "backbone": TrainConfig(preset="backbone", auxiliary="none", agda=AttentionAugmentationConfig(mode="none")),
    "f-bifpn-mtlnet": F_BIFPN_RECIPE,
    "f-bifpn-mtlnet-v2-s": replace(F_BIFPN_RECIPE, preset="f-bifpn-mtlnet-v2-s", network=F_BIFPN_PRESETS["v2-s"]),
    "f-bifpn-mtlnet-v2-b3": replace(F_BIFPN_RECIPE, preset="f-bifpn-mtlnet-v2-b3", network=F_BIFPN_PRESETS["v2-b3"]),
    "f-bifpn-mtlnet-small": replace(
        F_BIFPN_RECIPE,
        preset="f-bifpn-mtlnet-small",
        network=F_BIFPN_PRESETS["small"],
        input_size=224,
        crop_box=SMALL_CROP_BOX,
        epochs=20,
        optimization=replace(F_BIFPN_RECIPE.optimization, learning_rate=5e-4, freeze_backbone_epochs=0),
    ),
}


def make_train_config(preset: str = "paper", settings: Mapping[str, Any] | None = None, **named: Any) -> TrainConfig:
    """A preset with some settings changed.

    Args:
        preset: a name in `PRESETS`.
        settings: by path, such as `{"ril.weight": 0.5}`; a value may be the text that a command line gives.
        named: by a name that only one setting has, such as `num_attentions=2`.

    Raises:
        ConfigError: an unknown preset or setting, or a value that does not fit.
    """
    if "preset" in {**(settings or {}), **named}:
        raise ConfigError("preset holds the defaults of all settings and is not a setting itself; use --preset")
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    try:
        return replace_settings(PRESETS[preset], {**(settings or {}), **named})
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """How to train: never changes what is learned, beyond rounding; several devices also drop out other units, and on the CPU
    batch norm sees the share of each."""

    devices: int = 1
    """Processes, one for each GPU (or for each part of a CPU's cores); they share a batch."""
    compile: bool = False
    """Compile the network first (torch.compile): takes minutes at the start, then steps are faster on some devices."""
    cache_gb: float | None = None
    """Memory for decoded faces; None chooses by the free memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.devices >= 1, "devices", "must be >= 1", self.devices)
        check(self.cache_gb is None or self.cache_gb >= 0, "cache_gb", "must be >= 0", self.cache_gb)

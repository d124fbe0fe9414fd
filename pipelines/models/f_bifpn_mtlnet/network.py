"""F-BiFPN-MTLNet: a pyramid fused along forgery-attention maps, and three tasks on it: class, mask, self-consistency."""

from __future__ import annotations

from torch import Tensor, nn

from pipelines.models.backbone import NUM_CLASSES, PyramidBackbone
from pipelines.models.f_bifpn_mtlnet.attention import ForgeryAttention
from pipelines.models.f_bifpn_mtlnet.branches import ConsistencyBranch, make_mask_branch, pool_levels, weigh_tasks
from pipelines.models.f_bifpn_mtlnet.config import NUM_LEVELS, FBiFPNMTLNetConfig
from pipelines.models.f_bifpn_mtlnet.pyramid import FusionLayer
from pipelines.models.outputs import DenseOutput, DetectorOutput

MASK_LEVEL, CONSISTENCY_LEVEL = 0, 2
"""O_2, at 1/4 of the input's side, and O_4, at 1/16."""


class FBiFPNMTLNet(nn.Module):
    """17,285,896 parameters with the preset `b4`. docs/models.md shows its parts with their sources."""

    def __init__(self, config: FBiFPNMTLNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = PyramidBackbone(
            config.backbone,
            config.taps,
            drop_path_rate=config.drop_path_rate,
            bn_momentum=config.bn_momentum,
        )
        width = config.width
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, kernel_size=1, bias=False), nn.BatchNorm2d(width))
            for channels in self.backbone.channels
        )
        self.attention = ForgeryAttention(
            width, reduction=config.channel_reduction, spatial_channels=config.spatial_channels
        )
        self.fusion = nn.ModuleList(
            FusionLayer(width, config.fusion, lateral_gate=config.lateral_gate) for _ in range(config.layers)
        )
        self.mask = make_mask_branch(width, config.mask_channels) if config.mask_branch else None
        self.consistency = (
            None
            if config.consistency == "none"
            else ConsistencyBranch(width, config.consistency_channels, config.consistency)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * width * NUM_LEVELS, NUM_CLASSES)

    def forward(self, images: Tensor) -> DetectorOutput:
        """Logits and dense outputs from normalised images (N, 3, H, W).

        In training the logits are the classifier's; otherwise they follow `score_weights`.
        """
        levels = [lateral(level) for lateral, level in zip(self.laterals, self.backbone(images), strict=True)]
        attention_logits = [self.attention(level) for level in levels]
        attention = [logits.sigmoid() for logits in attention_logits]
        for layer in self.fusion:
            levels = layer(levels, attention)
        levels = [level * (1 + weights) for level, weights in zip(levels, attention, strict=True)]
        mask = None if self.mask is None else self.mask(levels[MASK_LEVEL])
        features = None if self.consistency is None else self.consistency(levels[CONSISTENCY_LEVEL])
        logits = self.classifier(self.dropout(pool_levels(levels, attention)))
        if not self.training and self.config.score_weights[0] < 1:
            logits = weigh_tasks(logits, mask, self._compare(features), self.config.score_weights)
        return DetectorOutput(logits=logits, dense=DenseOutput(tuple(attention_logits), mask, features))

    def _compare(self, features: Tensor | None) -> Tensor | None:
        if features is None or self.consistency is None or not self.config.score_weights[2]:
            return None
        pairs: Tensor = self.consistency.compare(features)
        return pairs

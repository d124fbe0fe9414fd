"""The multi-attention network: a backbone, attention maps, enhanced textures, pooled regions, one classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipelines.models.backbone import NUM_CLASSES, Backbone
from pipelines.models.multi_attention.attention import MultiAttention, resize_maps
from pipelines.models.multi_attention.config import MultiAttentionConfig
from pipelines.models.multi_attention.pooling import pool_regions, pool_semantics
from pipelines.models.multi_attention.texture import TextureEnhancement
from pipelines.models.outputs import DetectorOutput


class MultiAttentionDetector(nn.Module):
    """Multi-attentional Deepfake Detection, figure 2 of the paper. With the default config: 18,414,680 parameters."""

    def __init__(self, config: MultiAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.backbone,
            texture_tap=config.texture_tap,
            attention_tap=config.attention_tap,
            drop_path_rate=config.drop_path_rate,
        )
        self.attention = MultiAttention(self.backbone.attention_channels, config.num_attentions)
        self.texture = TextureEnhancement(self.backbone.texture_channels, config.dense_layers)
        width = config.mid_features
        self.local_head = nn.Sequential(
            nn.Linear(config.num_attentions * self.texture.out_channels, width),
            nn.Hardswish(),
            nn.Linear(width, width),
            nn.Hardswish(),
        )
        self.global_head = nn.Sequential(nn.Linear(self.backbone.final_channels, width), nn.Hardswish())
        self.classifier = nn.Sequential(nn.Linear(2 * width, width), nn.Hardswish(), nn.Linear(width, NUM_CLASSES))

    def forward(self, images: Tensor) -> DetectorOutput:
        """Logits, attention maps and region vectors from normalised images (N, 3, H, W)."""
        maps = self.backbone(images)
        attention = self.attention(maps.attention)
        texture = self.texture(maps.texture, _size(attention))
        regions = pool_regions(resize_maps(attention, _size(texture.enhanced)), texture.enhanced)
        semantics = pool_semantics(resize_maps(attention, _size(maps.final)), maps.final)
        joined = torch.cat([self.local_head(regions.flatten(1)), self.global_head(semantics)], dim=1)
        return DetectorOutput(
            logits=self.classifier(joined),
            attention_maps=attention,
            region_vectors=pool_regions(attention, texture.pooled),
        )

    def classify_backbone(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of the backbone's own head: what the first training phase trains."""
        return self.backbone.classify(images)


def _size(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])

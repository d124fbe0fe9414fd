"""The multi-attention network: a backbone, attention maps, enhanced textures, pooled regions, one classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.backbone import Backbone
from pipelines.models.multi_attention.attention import DeepMultiAttention, MultiAttention, mask_edges, resize_maps
from pipelines.models.multi_attention.config import MultiAttentionConfig
from pipelines.models.multi_attention.heads import draw_kept_maps, make_classifier, make_global_head, make_local_head
from pipelines.models.multi_attention.pooling import pool_regions, pool_semantics
from pipelines.models.multi_attention.texture import GatedTextureEnhancement, TextureEnhancement, standardize
from pipelines.models.outputs import DetectorOutput


class MultiAttentionDetector(nn.Module):
    """Multi-attentional Deepfake Detection, figure 2 of the paper.

    18,414,680 parameters with the preset `paper`, 18,826,068 with `reference`.
    """

    def __init__(self, config: MultiAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone = Backbone(
            config.backbone,
            texture_tap=config.texture_tap,
            attention_tap=config.attention_tap,
            drop_path_rate=config.drop_path_rate,
            padding=config.padding,
            bn_momentum=config.bn_momentum,
        )
        self.attention = _make_attention(config, backbone.attention_channels)
        self.texture = _make_texture(config, backbone.texture_channels)
        self.local_head = make_local_head(config.num_attentions * self.texture.out_channels, config.mid_features)
        self.global_head = make_global_head(backbone.final_channels, config.mid_features)
        self.classifier = make_classifier(config.mid_features)

    def forward(self, images: Tensor) -> DetectorOutput:
        """Logits, attention maps and region vectors from normalised images (N, 3, H, W)."""
        maps = self.backbone(images)
        attention = self.attention(maps.attention)
        if self.config.edge_mask:
            attention = mask_edges(attention)
        texture = self.texture(maps.texture, attention)
        pooled = standardize(texture.pooled) if self.config.pooled_norm == "instance" else texture.pooled
        regions, semantics = self._pool(attention, texture.enhanced, maps.final)
        joined = torch.cat([self.local_head(regions.flatten(1)), self.global_head(semantics)], dim=1)
        return DetectorOutput(
            logits=self.classifier(joined),
            attention_maps=attention,
            region_vectors=pool_regions(attention, pooled),
        )

    def _pool(self, attention: Tensor, textures: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        """P (N, M, C_F) and G (N, C_L), in training without the maps dropped by attention dropout."""
        regions = pool_regions(resize_maps(attention, _size(textures)), textures)
        kept = draw_kept_maps(attention, self.config.attention_dropout, training=self.training)
        if kept is not None:
            regions, attention = regions * kept, attention * kept[..., None]
        semantics = pool_semantics(resize_maps(attention, _size(final)), final)
        return regions, F.dropout(semantics, self.config.final_dropout, training=self.training)

    def classify_backbone(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of the backbone's own head, which the first training phase trains."""
        return self.backbone.classify(images)


def _make_attention(config: MultiAttentionConfig, channels: int) -> nn.Module:
    kind = DeepMultiAttention if config.attention_head == "conv3x3-elu" else MultiAttention
    return kind(channels, config.num_attentions)


def _make_texture(config: MultiAttentionConfig, channels: int) -> TextureEnhancement | GatedTextureEnhancement:
    if config.texture == "gated-groups":
        return GatedTextureEnhancement(channels, config.dense_layers, config.num_attentions)
    return TextureEnhancement(channels, config.dense_layers)


def _size(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])

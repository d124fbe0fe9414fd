"""What every detector network returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DetectorOutput(NamedTuple):
    """Result of one forward pass over N images; the optional fields are None for networks without attention."""

    logits: Tensor
    """(N, 2): real, fake."""
    attention_maps: Tensor | None = None
    """(N, M, h, w), non-negative."""
    region_vectors: Tensor | None = None
    """V of the paper's section 3.4, (N, M, C_t): a unit vector per attention map, for the regional independence loss."""

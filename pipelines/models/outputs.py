"""What every detector network returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenseOutput(NamedTuple):
    """What a network says about single places of a face, as logits; a branch that the network lacks is None."""

    attention: tuple[Tensor, ...]
    """One map per pyramid level, finest first, each (N, 1, h_l, w_l): where traces of a forgery are expected."""
    mask: Tensor | None = None
    """(N, 1, h, w): which pixels are forged."""
    consistency: Tensor | None = None
    """(N, C, h, w): features whose pairwise similarity says whether two places have one source."""


class DetectorOutput(NamedTuple):
    """Result of one forward pass over N images; the optional fields are None for networks without them."""

    logits: Tensor
    """(N, 2): real, fake."""
    attention_maps: Tensor | None = None
    """(N, M, h, w), non-negative."""
    region_vectors: Tensor | None = None
    """V of the paper's section 3.4, (N, M, C_t): a unit vector per attention map, for the regional independence loss."""
    dense: DenseOutput | None = None

    @property
    def forgery_map(self) -> Tensor | None:
        """(N, h, w) in 0..1: the probability that a pixel is forged, over the whole input at the network's resolution."""
        if self.dense is None or self.dense.mask is None:
            return None
        return self.dense.mask.float().sigmoid()[:, 0]

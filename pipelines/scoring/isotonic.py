"""Isotonic regression of labels: neighbouring scores are pooled until the share of fakes rises from block to block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Block:
    """Neighbouring scores that share one value."""

    first: float
    """Lowest score."""
    last: float
    """Highest score."""
    fakes: int
    videos: int

    @property
    def share(self) -> float:
        """Share of fakes among the videos."""
        return self.fakes / self.videos

    def join(self, right: Block) -> Block:
        return Block(self.first, right.last, self.fakes + right.fakes, self.videos + right.videos)

    def cost_of_joining(self, right: Block) -> float:
        """How much the squared error grows."""
        return (self.share - right.share) ** 2 / (1 / self.videos + 1 / right.videos)


def pool_violators(blocks: Iterable[Block]) -> list[Block]:
    """Blocks with rising shares, from blocks in the order of their scores (pool adjacent violators)."""
    pooled: list[Block] = []
    for block in blocks:
        while pooled and pooled[-1].share >= block.share:
            block = pooled.pop().join(block)
        pooled.append(block)
    return pooled


def join_cheapest(blocks: list[Block], limit: int) -> list[Block]:
    """At most `limit` blocks, by repeatedly merging the two neighbours whose merging costs least; shares keep rising."""
    while len(blocks) > limit:
        costs = [left.cost_of_joining(right) for left, right in pairwise(blocks)]
        cheapest = costs.index(min(costs))
        joined = blocks[cheapest].join(blocks[cheapest + 1])
        blocks = [*blocks[:cheapest], joined, *blocks[cheapest + 2 :]]
    return blocks

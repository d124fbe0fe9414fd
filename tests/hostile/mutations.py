"""Damaged copies of clips: the same (seed, number) always gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEADER_BYTES = 512
"""Where most containers keep what says how to read the rest."""
LONGEST_BLOCK_BYTES = 2048

Mutate = Callable[[bytes, bytes, np.random.Generator], bytes]
"""From the file's bytes, another file's bytes and a generator to the damaged bytes."""


@dataclass(frozen=True)
class Mutation:
    """One damaged copy."""

    number: int
    origin: str
    """Name of the clip that it was made from."""
    kind: str
    data: bytes

    @property
    def name(self) -> str:
        """A file name that keeps the suffix of the clip."""
        return f"{self.number:06d}_{self.kind}_{self.origin}"


def make_mutation(corpus: Mapping[str, Path], seed: int, number: int) -> Mutation:
    """The damaged copy of this number; clips and kinds come in turn, so that each meets each."""
    names = sorted(corpus)
    rng = np.random.default_rng((seed, number))
    origin = names[number % len(names)]
    kind = list(KINDS)[number // len(names) % len(KINDS)]
    other = names[int(rng.integers(len(names)))]
    data = KINDS[kind](corpus[origin].read_bytes(), corpus[other].read_bytes(), rng)
    return Mutation(number, origin, kind, data)


def _cut(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def _flip_few(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, rng, int(rng.integers(1, 5)), len(data))


def _flip_many(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    """One bit in 2000 to one in 30."""
    return _flip(data, rng, max(1, int(8 * len(data) / 10 ** rng.uniform(1.5, 3.3))), len(data))


def _flip_header(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, rng, int(rng.integers(1, 9)), min(HEADER_BYTES, len(data)))


def _flip(data: bytes, rng: np.random.Generator, num_bits: int, end: int) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    np.bitwise_xor.at(changed, rng.integers(0, end, num_bits), (1 << rng.integers(0, 8, num_bits)).astype(np.uint8))
    return changed.tobytes()


def _swap_header(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The head of another file on the body of this one."""
    length = int(rng.integers(4, min(HEADER_BYTES, len(data), len(other))))
    return other[:length] + data[length:]


def _zero_block(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _choose_block(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def _duplicate_block(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    start, stop = _choose_block(data, rng)
    return data[:stop] + data[start:]


def _transpose_blocks(data: bytes, _other: bytes, rng: np.random.Generator) -> bytes:
    first, second, third = np.sort(rng.integers(0, len(data) + 1, 3)).tolist()
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _choose_block(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(1, min(LONGEST_BLOCK_BYTES, len(data))))
    start = int(rng.integers(0, len(data) - length))
    return start, start + length


KINDS: dict[str, Mutate] = {
    "cut": _cut,
    "few_bits": _flip_few,
    "many_bits": _flip_many,
    "header_bits": _flip_header,
    "header_swapped": _swap_header,
    "zeroed": _zero_block,
    "duplicated": _duplicate_block,
    "transposed": _transpose_blocks,
}
REARRANGING = ("duplicated", "transposed")
"""Kinds after which whole frames may lie in the file twice or in another order."""

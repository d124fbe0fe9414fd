"""With `draw_pairs`, each fake is followed by its original, and everything else stays as `draw_balanced` has it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.faces import Face
from pipelines.data.samplers import draw_balanced, draw_pairs
from pipelines.errors import DatasetError


def _face(name: str, label: int, group: str | None) -> Face:
    return Face(Path(f"{name}.png"), label, name, group=group)


FACES = [
    *(_face(f"real-{i}", 0, f"g{i}") for i in range(8)),
    *(_face(f"fake-{i}", 1, f"g{i}") for i in range(6)),
    _face("lone-fake", 1, "nobody"),
    _face("fake-of-nothing", 1, None),
]


def test_a_fake_stands_beside_a_real_face_of_its_group() -> None:
    order = draw_pairs(FACES, 64, np.random.default_rng(0))
    assert [FACES[index].label for index in order] == [0, 1] * 32
    for real, fake in zip(order[::2], order[1::2], strict=True):
        if FACES[fake].group in {"nobody", None}:
            continue
        assert FACES[real].group == FACES[fake].group


def test_fakes_and_reals_without_a_partner_keep_their_turns() -> None:
    for seed in range(5):
        order = draw_pairs(FACES, 64, np.random.default_rng(seed))
        balanced = draw_balanced(FACES, 64, np.random.default_rng(seed))
        assert order[1::2] == balanced[1::2]
        for position in range(0, 64, 2):
            if FACES[order[position + 1]].group in {"nobody", None}:
                assert order[position] == balanced[position]
    assert set(Counter(order[1::2]).values()) == {4}


def test_self_blends_keep_the_face_before_them() -> None:
    blended = frozenset({1, 5, 9})
    order = draw_pairs(FACES, 12, np.random.default_rng(3), blended)
    assert all(order[place] == order[place - 1] for place in blended)
    assert all(FACES[order[place]].label == 1 for place in (3, 7, 11))


def test_of_several_originals_each_has_its_turn() -> None:
    faces = [_face("a", 0, "g"), _face("b", 0, "g"), _face("c", 0, "h"), _face("f", 1, "g")]
    drawn = Counter(draw_pairs(faces, 400, np.random.default_rng(0))[::2])
    assert set(drawn) == {0, 1} and min(drawn.values()) > 70


def test_an_odd_count_ends_with_a_real_face() -> None:
    order = draw_pairs(FACES, 7, np.random.default_rng(0))
    assert [FACES[index].label for index in order] == [0, 1, 0, 1, 0, 1, 0]


def test_a_missing_class_is_refused() -> None:
    with pytest.raises(DatasetError, match="one class has no faces"):
        draw_pairs(FACES[:8], 4, np.random.default_rng(0))

"""What is not independent counts as one group, and a bootstrap draws it as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import EvaluateConfig
from tests.evaluation.tables import figures, plant, score_row, write_labels, write_planted, write_score_file


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        ([{}, {}, {}, {}], 4),
        ([{"group": "g"}, {"group": "g"}, {"group": "h"}, {}], 3),
        ([{"identity": "p;q"}, {"identity": "p;s"}, {"identity": "q"}, {"identity": "q;p"}], 2),
        ([{}, {"original": "v0"}, {"original": "v0.mp4"}, {}], 2),
        ([{"group": "g", "identity": "p"}, {"group": "h", "identity": "p"}, {"identity": "p"}, {"original": "v2"}], 3),
        ([{"identity": "p"}, {"original": "v0"}, {"identity": "p"}, {"original": "v2"}], 1),
        ([{"original": "v1", "identity": "q;p"}, {"identity": "p"}, {"identity": "p"}, {"identity": "q"}], 2),
        ([{"original": "v1"}, {"group": "g"}, {"group": "g"}, {}], 2),
        ([{"original": "v1", "group": "g"}, {}, {"identity": "p"}, {"identity": "p", "group": "g"}], 2),
        ([{"group": "g", "dataset": "x"}, {"group": "g", "dataset": "y"}, {"group": "g"}, {"group": "g"}], 3),
        ([{"original": "no/v1"}, {}, {"original": "no\\v1.mp4"}, {}], 2),
    ],
    ids=[
        "none",
        "group",
        "first identity",
        "original",
        "group before identity before original",
        "a fake follows its original's person",
        "a family is not torn by its persons",
        "a fake follows its original's group",
        "an original follows its fake's group",
        "groups are of a data set",
        "backslashes",
    ],
)
def test_what_belongs_together_is_one_group(tmp_path: Path, said: list[dict[str, str]], groups: int) -> None:
    names = [f"v{n}.mp4" for n in range(4)]
    records = [
        {"video": v, "label": "real" if n % 2 else "fake"} | more
        for n, (v, more) in enumerate(zip(names, said, strict=True))
    ]
    scores = write_score_file(tmp_path / "s.csv", [score_row(v, 0.5) for v in names])
    assert figures(scores, write_labels(tmp_path / "l.csv", records))["groups"] == groups


def test_a_group_is_drawn_as_a_whole(tmp_path: Path) -> None:
    planted = plant(80)
    scores, labels = write_planted(tmp_path, planted)
    config = EvaluateConfig(bootstrap=100)
    alone = figures(scores, labels, config)
    halves = [{"video": v, "label": y, "group": str(int(v[:4]) % 8)} for v, y, _ in planted]
    grouped = figures(scores, write_labels(tmp_path / "g.csv", halves), config)
    assert grouped["video.auc"] == alone["video.auc"] and grouped["groups"] == 8
    ends = [(found["video.log_loss.low"], found["video.log_loss.high"]) for found in (alone, grouped)]
    assert ends[0] != ends[1] and all(low < alone["video.log_loss"] < high for low, high in ends)


def test_an_original_of_another_split_says_who_is_in_a_fake(tmp_path: Path) -> None:
    said = [
        {"video": "r.mp4", "label": "real", "split": "train", "identity": "p"},
        {"video": "f.mp4", "label": "fake", "split": "test", "original": "r.mp4"},
        {"video": "s.mp4", "label": "real", "split": "test", "identity": "p"},
    ]
    scores = write_score_file(tmp_path / "s.csv", [score_row("f.mp4", 0.9), score_row("s.mp4", 0.1)])
    found = figures(scores, write_labels(tmp_path / "l.csv", said))
    assert (found["videos.scored"], found["groups"]) == (2, 1)

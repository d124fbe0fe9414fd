"""A score is measured against its own video's label, or refused: a name that fits several is never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import EvaluateConfig
from pipelines.data.labels import VideoLabel
from pipelines.errors import DatasetError
from pipelines.manifest import Provenance, write_table
from pipelines.records import VideoRow, rows_to_table
from tests.evaluation.tables import (
    digest,
    face_row,
    figures,
    plant,
    score_row,
    write_details_folder,
    write_labels,
    write_plain_details,
    write_planted,
    write_score_file,
)

REMEDY = "name the labels by video_key or path, as predict and index write them"
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


def _manifest(path: Path, rows: Sequence[tuple[str, str, VideoLabel]]) -> Path:
    """A videos manifest of (video_key, digest, what is said of it)."""
    videos = [VideoRow(sha256[:16], sha256, key, f"/there/{key}.mp4", **vars(about)) for key, sha256, about in rows]
    write_table(rows_to_table(videos, VideoRow), path, Provenance("index", 1, {}))
    return path


@pytest.mark.parametrize(
    ("score", "label"),
    [
        ({"video": "in/a/x.mp4", "video_key": "a/x"}, "a/x.mp4"),
        ({"video": "in/a/x.mp4", "video_key": "a/x"}, "a/x"),
        ({"video": "in/a/x.final.mp4", "video_key": "a/x.final"}, "a/x.final"),
        ({"video": "in/a/x.mp4", "video_key": "x"}, "in/a/x.mp4"),
        ({"video": "in/a/x.mp4", "video_key": ""}, "in/a/x.mp4"),
        ({"video": "in/a/x.mp4", "video_key": "a/x"}, "elsewhere/x.avi"),
        ({"video": "in/a/x.mp4", "video_key": "a/x"}, "x"),
        ({"video": "in/a/x.mp4", "video_key": "a/x.mp4"}, "a/x.mp4"),
    ],
    ids=["key", "key as it is", "key with a dot", "path", "path, no keys", "bare name", "bare, as it is", "long key"],
)
def test_a_score_finds_its_label(tmp_path: Path, score: dict[str, str], label: str) -> None:
    rows = [score_row(**score, probability=0.9), score_row("other/y.mp4", 0.1)]
    labels = write_labels(tmp_path / "labels.csv", [("other/y.mp4", "real"), (label, "fake")])
    assert figures(write_score_file(tmp_path / "s.csv", rows), labels)["video.auc"] == 1


def test_a_score_finds_its_label_by_content(tmp_path: Path) -> None:
    rows = [score_row("copied/1.mp4", 0.9, sha256=digest("x")), score_row("copied/2.mp4", 0.1, sha256=digest("y"))]
    about = [("x", digest("x"), VideoLabel("fake")), ("y", digest("y"), VideoLabel("real"))]
    labels = _manifest(tmp_path / "videos.parquet", about)
    assert figures(write_score_file(tmp_path / "s.csv", rows), labels)["video.auc"] == 1


@pytest.mark.parametrize("better", ["key", "path", "content"])
def test_a_better_way_wins_over_a_worse_one(tmp_path: Path, better: str) -> None:
    rows = [score_row("in/x.mp4", 0.9, video_key="k", sha256=digest("x")), score_row("real.mp4", 0.1)]
    right = {"key": "k", "path": "in/x", "content": "q"}[better]
    said = [
        (right, digest("x") if better == "content" else digest("0"), VideoLabel("fake")),
        ("worse/x", digest("1"), VideoLabel("real")),
        ("real", digest("2"), VideoLabel("real")),
    ]
    videos = [VideoRow(sha[:16], sha, key, f"{key}.mp4", **vars(about)) for key, sha, about in said]
    write_table(rows_to_table(videos, VideoRow), tmp_path / "v.parquet", Provenance("index", 1, {}))
    found = figures(write_score_file(tmp_path / "s.csv", rows), tmp_path / "v.parquet")
    assert (found["video.auc"], found["statuses"]) == (1, {"ok": 2, "not_scored": 1})


def _ffpp() -> list[Any]:
    """One real video and the fakes of it, which all have one name."""
    real = score_row("original/071.mp4", 0.1)
    return [real, *(score_row(f"in/{m}/071_054.mp4", 0.9, video_key=f"{m}/c23/videos/071_054") for m in METHODS)]


def test_the_stem_that_every_method_folder_of_ffpp_has_is_refused_and_both_places_are_named(tmp_path: Path) -> None:
    videos = [f"manipulated/{method}/c23/videos/071_054.mp4" for method in METHODS]
    labels = write_labels(tmp_path / "l.csv", [("original/071.mp4", "real"), *((video, "fake") for video in videos)])
    scores = [score_row("071.mp4", 0.1), *(score_row(f"{m}/071_054.mp4", 0.9) for m in METHODS)]
    with pytest.raises(DatasetError, match="could be that of") as caught:
        figures(write_score_file(tmp_path / "s.csv", scores), labels)
    assert str(caught.value) == (
        f"s.csv: the score of 'Deepfakes/071_054' could be that of {videos[0]!r} or of {videos[1]!r}; {REMEDY}"
    )


def test_the_same_stem_is_no_trouble_where_keys_tell_the_methods_apart(tmp_path: Path) -> None:
    named = [{"video": f"{m}/c23/videos/071_054.mp4", "label": "fake", "method": m} for m in METHODS]
    labels = write_labels(tmp_path / "l.csv", [{"video": "original/071.mp4", "label": "real"}, *named])
    found = figures(write_score_file(tmp_path / "s.csv", _ffpp()), labels)
    assert (found["videos.scored"], found["videos.fake"], found["video.auc"]) == (5, 4, 1)
    assert [part["method"] for part in found["parts"]] == list(METHODS)


def test_two_scores_of_one_label_are_refused_and_both_are_named(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "l.csv", [("071.mp4", "real"), ("071_054.mp4", "fake")])
    with pytest.raises(DatasetError) as caught:
        figures(write_score_file(tmp_path / "s.csv", _ffpp()), labels)
    assert str(caught.value) == (
        "s.csv: 'Deepfakes/c23/videos/071_054' and 'Face2Face/c23/videos/071_054' both fit the label of '071_054.mp4'; "
        + REMEDY
    )


def test_a_bare_name_does_not_take_the_label_of_a_score_that_is_named_in_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [score_row("DF/071_054.mp4", 0.9), score_row("NT/071_054.mp4", 0.0), score_row("r/071.mp4", 0.1)]
    labels = write_labels(tmp_path / "l.csv", [("DF/071_054.mp4", "fake"), ("r/071.mp4", "real")])
    found = figures(write_score_file(tmp_path / "s.csv", rows), labels)
    assert (found["video.auc"], found["videos.scored"]) == (1, 2)
    assert "s.csv: 1 scored videos have no label and are left out" in caplog.text


def test_labelled_videos_without_a_score_count_as_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        score_row("r1.mp4", 0.1),
        score_row("r2.mp4", 0.6),
        score_row("f1.mp4", 0.9),
        score_row("f2.mp4", None),
        score_row("f3.mp4", None, status="unreadable"),
        score_row("stranger.mp4", 1.0),
    ]
    names = [("r1.mp4", "real"), ("r2.mp4", "real"), *((f"f{n}.mp4", "fake") for n in (1, 2, 3, 4))]
    found = figures(write_score_file(tmp_path / "s.csv", rows), write_labels(tmp_path / "l.csv", names))
    assert found["statuses"] == {"ok": 3, "no_face": 1, "unreadable": 1, "not_scored": 1}
    assert (found["videos.real"], found["videos.fake"], found["videos.scored"], found["coverage"]) == (2, 4, 3, 0.5)
    assert (found["video.auc"], found["video_all.auc"]) == (1, (2 + 3 * 1) / 8)
    assert (found["video.accuracy"], found["video_all.accuracy"]) == (2 / 3, 5 / 6)
    assert found["video_all.brier"] == pytest.approx((0.01 + 0.36 + 0.01 + 3 * 0.25) / 6)
    assert "1 scored videos have no label and are left out" in caplog.text
    assert "1 of 6 labelled videos are not among the scores" in caplog.text


def test_nothing_that_fits_is_an_error_that_shows_what_was_looked_for(tmp_path: Path) -> None:
    scores = write_score_file(tmp_path / "s.csv", [score_row("x/1.mp4", 0.9)])
    labels = write_labels(tmp_path / "l.csv", [{"video": "y/2.mp4", "label": "real", "split": "train"}])
    with pytest.raises(DatasetError, match="none of the 1 scored videos of s.csv has a label; .*'x/1' .* as 'y/2'"):
        figures(scores, labels)
    labels = write_labels(tmp_path / "l.csv", [{"video": "x/1.mp4", "label": "real", "split": "train"}])
    with pytest.raises(DatasetError, match="has a label of the split val"):
        figures(scores, labels, EvaluateConfig(rounds=0, split="val"))


@pytest.mark.parametrize(
    ("split", "expected"), [(None, ("test", 2)), ("test", ("test", 2)), ("val", ("val", 4)), ("all", ("all", 8))]
)
def test_the_test_split_is_measured_unless_another_is_asked_for(
    tmp_path: Path, split: Any, expected: tuple[str, int]
) -> None:
    sides = {"real": ["test", "val", "val", "train"], "fake": ["test", "val", "val", ""]}
    named = [(f"{label}{n}.mp4", label, side) for label, given in sides.items() for n, side in enumerate(given)]
    scores = write_score_file(tmp_path / "s.csv", [score_row(video, 0.5) for video, _, _ in named])
    columns = ("video", "label", "split")
    labels = write_labels(tmp_path / "l.csv", [dict(zip(columns, row, strict=True)) for row in named])
    found = figures(scores, labels, EvaluateConfig(rounds=0, split=split))
    assert (found["split"], found["videos.scored"]) == expected
    assert found["coverage"] == 1


def test_without_a_test_split_everything_is_measured(tmp_path: Path) -> None:
    rows = [("a.mp4", "real", "train"), ("b.mp4", "fake", "val")]
    labels = write_labels(tmp_path / "l.csv", [{"video": v, "label": y, "split": s} for v, y, s in rows])
    found = figures(write_score_file(tmp_path / "s.csv", [score_row(v, 0.5) for v, _, _ in rows]), labels)
    assert (found["split"], found["videos.scored"]) == ("all", 2)


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        ([{}, {}, {}, {}], 4),
        ([{"group": "g"}, {"group": "g"}, {"group": "h"}, {}], 3),
        ([{"identity": "p;q"}, {"identity": "p;s"}, {"identity": "q"}, {"identity": "q;p"}], 2),
        ([{}, {"original": "v0"}, {"original": "v0.mp4"}, {}], 2),
        ([{"group": "g", "identity": "p"}, {"group": "h", "identity": "p"}, {"identity": "p"}, {"original": "v0"}], 4),
    ],
    ids=["none", "group", "first identity", "original", "group before identity before original"],
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
    config = EvaluateConfig(rounds=100)
    alone = figures(scores, labels, config)
    halves = [{"video": v, "label": y, "group": str(int(v[:4]) % 8)} for v, y, _ in planted]
    grouped = figures(scores, write_labels(tmp_path / "g.csv", halves), config)
    assert grouped["video.auc"] == alone["video.auc"] and grouped["groups"] == 8
    ends = [(found["video.log_loss.low"], found["video.log_loss.high"]) for found in (alone, grouped)]
    assert ends[0] != ends[1] and all(low < alone["video.log_loss"] < high for low, high in ends)


def test_copies_of_one_content_are_one_group_and_each_keeps_its_score(tmp_path: Path) -> None:
    same = digest("same")
    rows = [score_row("a.mp4", 0.9, sha256=same), score_row("b.mp4", 0.9, sha256=same), score_row("c.mp4", 0.1)]
    about = [
        ("a", same, VideoLabel("fake")),
        ("b", same, VideoLabel("fake")),
        ("c", digest("c.mp4"), VideoLabel("real")),
    ]
    found = figures(write_score_file(tmp_path / "s.csv", rows), _manifest(tmp_path / "v.parquet", about))
    assert (found["videos.scored"], found["groups"], found["video.auc"]) == (3, 2, 1)


@pytest.mark.parametrize("protocol", [None, "paper"])
def test_copies_share_the_details_that_are_kept_of_one_of_them(tmp_path: Path, protocol: Any) -> None:
    same = digest("same")
    faces = [face_row("a.mp4", k, p, sha256=same) for k, p in enumerate((0.5, 0.9))] + [face_row("c.mp4", 0, 0.1)]
    about = [
        ("b", same, VideoLabel("fake")),
        ("a", same, VideoLabel("fake")),
        ("c", digest("c.mp4"), VideoLabel("real")),
    ]
    labels = _manifest(tmp_path / "v.parquet", about)
    config = EvaluateConfig(rounds=0, protocol=protocol)
    found = figures(write_details_folder(tmp_path / "d", faces), labels, config)
    assert (found["videos.scored"], found["coverage"], found["groups"], found["frames"]) == (3, 1, 2, 5)
    assert found["video.brier"] == pytest.approx((2 * 0.3**2 + 0.1**2) / 3)
    both = [*faces, *(face_row("b.mp4", k, 0.7, sha256=same) for k in range(2))]
    found = figures(write_plain_details(tmp_path / "d.parquet", both), labels, config)
    assert (found["videos.scored"], found["frames"]) == (3, 5)


def _two_sets(folder: Path, *, method: Any = write_score_file) -> list[Path]:
    if method is write_details_folder:
        rows = [[face_row(f"{name}{n}.mp4", 0, p) for n, p in enumerate((0.1, 0.9, 0.5))] for name in "xy"]
        return [write_details_folder(folder / name, faces) for name, faces in zip(("one", "two"), rows, strict=True)]
    rows_of = [[score_row(f"{name}{n}.mp4", p) for n, p in enumerate((0.1, 0.9, 0.5))] for name in "xy"]
    return [write_score_file(folder / f"{name}.csv", rows) for name, rows in zip(("one", "two"), rows_of, strict=True)]


@pytest.mark.parametrize("method", [write_score_file, write_details_folder], ids=["scores", "details"])
def test_several_sources_share_one_labels_file_and_a_missing_video_counts_once(tmp_path: Path, method: Any) -> None:
    names = [f"{name}{n}.mp4" for name in "xy" for n in range(3)]
    said = [("z.mp4", "fake"), *((v, "real" if v[1] == "0" else "fake") for v in names)]
    found = figures(_two_sets(tmp_path, method=method), write_labels(tmp_path / "l.csv", said))
    assert found["sources"] == [path.name for path in _two_sets(tmp_path, method=method)]
    assert (found["videos.real"], found["videos.fake"], found["statuses"]) == (2, 5, {"ok": 6, "not_scored": 1})
    parts = {part["dataset"]: (part["videos.real"], part["videos.fake"], part["coverage"]) for part in found["parts"]}
    assert parts == {"one": (1, 2, 1), "two": (1, 2, 1)}
    assert (found["video.auc"], found["groups"]) == (1, 7)
    assert found["frames"] == (6 if method is write_details_folder else None)


def test_labels_name_the_data_sets_of_several_sources_and_groups_stay_whole(tmp_path: Path) -> None:
    said = [
        {"video": f"{name}{n}.mp4", "label": "fake" if n else "real", "dataset": dataset, "group": str(n)}
        for name, dataset in (("x", "celebdf"), ("y", "dfdc"))
        for n in range(4)
    ]
    found = figures(_two_sets(tmp_path), write_labels(tmp_path / "l.csv", said))
    parts = {part["dataset"]: (part["videos.scored"], part["coverage"]) for part in found["parts"]}
    assert parts == {"celebdf": (3, 3 / 4), "dfdc": (3, 3 / 4)}
    assert found["groups"] == 4


def test_a_source_without_faces_leaves_several_without_frames_but_not_without_scores(tmp_path: Path) -> None:
    scores = _two_sets(tmp_path)[0]
    details = _two_sets(tmp_path, method=write_details_folder)[1]
    said = [(f"{name}{n}.mp4", "fake" if n else "real") for name in "xy" for n in range(3)]
    found = figures([scores, details], write_labels(tmp_path / "l.csv", said))
    assert (found["videos.scored"], found["video.auc"], found["frames"]) == (6, 1, None)
    assert found["aggregate"] == "as in the scores, max-track"


def test_the_same_videos_in_two_sources_of_one_data_set_are_refused(tmp_path: Path) -> None:
    scores = _two_sets(tmp_path)[0]
    said = [{"video": f"x{n}.mp4", "label": "fake" if n else "real", "dataset": "dfdc"} for n in range(3)]
    labels = write_labels(tmp_path / "l.csv", said)
    other = write_score_file(tmp_path / "other.csv", [score_row("x0.mp4", 0.3)])
    with pytest.raises(DatasetError, match="the video dfdc: x0 is in more than one of the sources"):
        figures([scores, other], labels)

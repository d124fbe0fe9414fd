"""A score is measured against its own video's label, or refused: a name that fits several is never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import EvaluateConfig
from pipelines.errors import DatasetError
from pipelines.records import VideoRow, rows_to_table
from pipelines.workspace.labels import VideoLabel
from pipelines.workspace.manifest import Provenance, write_table
from tests.evaluation.tables import (
    digest,
    face_row,
    figures,
    score_row,
    write_details_folder,
    write_labels,
    write_plain_details,
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


@pytest.mark.parametrize("labels", [[("a.mp4", "real"), ("b.mp4", "fake")], None], ids=["labels", "folders"])
def test_a_score_that_stands_twice_is_refused(tmp_path: Path, labels: Any) -> None:
    rows = [score_row(f"fake/{v}.mp4", p, video_key=v) for v, p in (("a", 0.1), ("b", 0.9), ("b", 0.8))]
    scores = write_score_file(tmp_path / "s.csv", rows)
    with pytest.raises(DatasetError, match="s.csv: 'b' is scored twice; keep one row"):
        figures(scores, labels and write_labels(tmp_path / "l.csv", labels))


@pytest.mark.parametrize("again", ["real", "fake"])
def test_a_label_that_stands_twice_counts_once_if_it_is_the_same(tmp_path: Path, again: str) -> None:
    scores = write_score_file(tmp_path / "s.csv", [score_row("a.mp4", 0.1), score_row("b.mp4", 0.9)])
    labels = write_labels(tmp_path / "l.csv", [("a.mp4", "real"), ("b.mp4", "fake"), ("a.mp4", again)])
    if again == "real":
        assert figures(scores, labels)["videos.real"] == 1
        return
    with pytest.raises(DatasetError, match="l.csv: 'a.mp4' is labelled twice, differently; keep one row"):
        figures(scores, labels)


def test_a_label_without_a_video_is_refused(tmp_path: Path) -> None:
    scores = write_score_file(tmp_path / "s.csv", [score_row("a.mp4", 0.1), score_row("b.mp4", 0.9)])
    said = [("a.mp4", "real"), ("b.mp4", "fake"), ("", ""), ("", "")]
    assert figures(scores, write_labels(tmp_path / "l.csv", said))["videos.scored"] == 2
    with pytest.raises(DatasetError, match="l.csv has a label without a video; name the video, or remove the row"):
        figures(scores, write_labels(tmp_path / "l.csv", [*said, ("", "fake")]))


def test_backslashes_of_windows_match_slashes(tmp_path: Path) -> None:
    rows = [score_row("in/a/x.mp4", 0.9, video_key="a/x"), score_row("in\\b\\x.mp4", 0.1, video_key="")]
    labels = write_labels(tmp_path / "l.csv", [("a\\x.mp4", "fake"), ("in/b/x.mp4", "real")])
    assert figures(write_score_file(tmp_path / "s.csv", rows), labels)["video.auc"] == 1
    videos = [
        VideoRow("", "", f"k{p}", f"e\\{label}\\x.mp4", label=label) for label, p in (("real", 0.1), ("fake", 0.9))
    ]
    write_table(rows_to_table(videos, VideoRow), tmp_path / "v.parquet", Provenance("index", 1, {}))
    rows = [score_row(video.path, float(video.video_key[1:]), video_key="") for video in videos]
    assert figures(write_score_file(tmp_path / "u.csv", rows), tmp_path / "v.parquet")["video.auc"] == 1
    rows = [score_row(f"d\\{label}\\x.mp4", p, video_key="") for label, p in (("real", 0.1), ("fake", 0.9))]
    assert figures(write_score_file(tmp_path / "t.csv", rows))["video.auc"] == 1


def test_runs_put_together_whose_keys_are_equal_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    said = [("x", "in/a/x.mp4", "fake"), ("b/x", "in/b/x.mp4", "real")]
    videos = [VideoRow("", "", key, path, label=label) for key, path, label in said]
    write_table(rows_to_table(videos, VideoRow), tmp_path / "v.parquet", Provenance("index", 1, {}))
    rows = [score_row("in/b/x.mp4", 0.1, video_key="x"), score_row("in/a/x.mp4", 0.9, video_key="x")]
    assert figures(write_score_file(tmp_path / "s.csv", rows), tmp_path / "v.parquet")["video.auc"] == 1


def test_a_key_that_fits_two_labels_gives_way_to_a_path_that_fits_one(tmp_path: Path) -> None:
    rows = [score_row("in/x.avi", 0.9, video_key="in/x"), score_row("y.mp4", 0.1)]
    labels = write_labels(tmp_path / "l.csv", [("in/x.mp4", "real"), ("in/x.avi", "fake"), ("y.mp4", "real")])
    found = figures(write_score_file(tmp_path / "s.csv", rows), labels)
    assert (found["video.auc"], found["statuses"]) == (1, {"ok": 2, "not_scored": 1})


@pytest.mark.parametrize(
    ("about", "scored"),
    [
        ([VideoLabel("fake"), VideoLabel("fake", method="x")], 3),
        ([VideoLabel("fake"), VideoLabel("real")], None),
        ([VideoLabel("fake", "test"), VideoLabel("fake", "val")], None),
    ],
    ids=["alike", "other label", "other split"],
)
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_content_that_fits_several_labels_takes_one_of_those_that_say_the_same(
    tmp_path: Path, copies: int, about: list[VideoLabel], scored: int | None
) -> None:
    same = digest("same")
    rows = [score_row(f"renamed/{n}.mp4", 0.9, sha256=same) for n in range(copies)] + [score_row("c.mp4", 0.1)]
    labels = _manifest(
        tmp_path / "v.parquet",
        [*((f"v{n}", same, one) for n, one in enumerate(about)), ("c", digest("c.mp4"), VideoLabel("real"))],
    )
    scores = write_score_file(tmp_path / "s.csv", rows)
    if scored is None:
        with pytest.raises(DatasetError, match="could be that of '/there/v0.mp4' or of '/there/v1.mp4'"):
            figures(scores, labels, EvaluateConfig(bootstrap=0, split="all"))
        return
    found = figures(scores, labels)
    assert (found["videos.scored"], found["video.auc"], found["coverage"]) == (scored, 1, 1)


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
    labels = write_labels(tmp_path / "l.csv", [("y/2.mp4", "real")])
    with pytest.raises(DatasetError, match="none of the 1 scored videos of s.csv has a label; .*'x/1' .* as 'y/2'"):
        figures(scores, labels)
    labels = write_labels(tmp_path / "l.csv", [{"video": "x/1.mp4", "label": "real", "split": "train"}])
    with pytest.raises(DatasetError, match="has a label of the split val"):
        figures(scores, labels, EvaluateConfig(bootstrap=0, split="val"))


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
    found = figures(scores, labels, EvaluateConfig(bootstrap=0, split=split))
    assert (found["split"], found["videos.scored"]) == expected
    assert found["coverage"] == 1


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (
            ["train", "val"],
            "the labels name the splits train, val but no test; say which with --split train or val or all",
        ),
        (
            ["val", "train"],
            "the labels name the splits train, val but no test; say which with --split train or val or all",
        ),
        (["train", ""], "the labels name the split train but no test; say which with --split train or all"),
        (["", ""], None),
    ],
)
def test_labels_with_splits_but_without_test_are_measured_only_if_one_is_named(
    tmp_path: Path, sides: list[str], message: str | None
) -> None:
    videos = [("a.mp4", "real"), ("b.mp4", "fake")]
    records = [{"video": v, "label": y, "split": side} for (v, y), side in zip(videos, sides, strict=True)]
    labels = write_labels(tmp_path / "l.csv", [*records, {"video": "c.mp4", "label": "", "split": "test"}])
    scores = write_score_file(tmp_path / "s.csv", [score_row(v, 0.5) for v, _ in videos])
    if message is None:
        assert (figures(scores, labels)["split"], figures(scores, labels)["videos.scored"]) == ("all", 2)
        return
    with pytest.raises(DatasetError) as caught:
        figures(scores, labels)
    assert str(caught.value) == message
    assert figures(scores, labels, EvaluateConfig(bootstrap=0, split="all"))["videos.scored"] == 2


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
    config = EvaluateConfig(bootstrap=0, protocol=protocol)
    found = figures(write_details_folder(tmp_path / "d", faces), labels, config)
    assert (found["videos.scored"], found["coverage"], found["groups"], found["frames"]) == (3, 1, 2, 5)
    assert found["video.brier"] == pytest.approx((2 * 0.3**2 + 0.1**2) / 3)
    both = [*faces, *(face_row("b.mp4", k, 0.7, sha256=same) for k in range(2))]
    found = figures(write_plain_details(tmp_path / "d.parquet", both), labels, config)
    assert (found["videos.scored"], found["frames"]) == (3, 5)

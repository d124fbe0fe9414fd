"""Several sources are measured as one: no video counts twice, and what belongs together is drawn together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DatasetError
from pipelines.evaluation.joining import join, merge
from pipelines.evaluation.scores import LabelledVideo, RawScores, Scored
from pipelines.workspace.labels import VideoLabel
from tests.evaluation.tables import (
    digest,
    face_row,
    figures,
    score_row,
    write_details_folder,
    write_labels,
    write_score_file,
)


def _two_sets(folder: Path, *, method: Any = write_score_file) -> list[Path]:
    if method is write_details_folder:
        rows = [[face_row(f"{name}{n}.mp4", 0, p) for n, p in enumerate((0.1, 0.9, 0.5))] for name in "xy"]
        return [write_details_folder(folder / name, faces) for name, faces in zip(("one", "two"), rows, strict=True)]
    rows_of = [[score_row(f"{name}{n}.mp4", p) for n, p in enumerate((0.1, 0.9, 0.5))] for name in "xy"]
    return [write_score_file(folder / f"{name}.csv", rows) for name, rows in zip(("one", "two"), rows_of, strict=True)]


@pytest.mark.parametrize("method", [write_score_file, write_details_folder], ids=["scores", "details"])
def test_several_sources_share_one_labels_file_and_a_missing_video_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: Any
) -> None:
    names = [f"{name}{n}.mp4" for name in "xy" for n in range(3)]
    said = [("z.mp4", "fake"), *((v, "real" if v[1] == "0" else "fake") for v in names)]
    found = figures(_two_sets(tmp_path, method=method), write_labels(tmp_path / "l.csv", said))
    missing = [text for text in caplog.messages if "not among the scores" in text]
    assert missing == [f"{', '.join(found['sources'])}: 1 of 7 labelled videos are not among the scores"]
    assert found["sources"] == [path.name for path in _two_sets(tmp_path, method=method)]
    assert (found["videos.real"], found["videos.fake"], found["statuses"]) == (2, 5, {"ok": 6, "not_scored": 1})
    parts = {part["dataset"]: (part["videos.real"], part["videos.fake"], part["coverage"]) for part in found["parts"]}
    assert parts == {"one": (1, 2, 1), "two": (1, 2, 1)}
    assert (found["video.auc"], found["groups"]) == (1, 7)
    assert found["frames"] == (6 if method is write_details_folder else None)


def test_labels_name_the_data_sets_of_several_sources_and_groups_are_theirs(tmp_path: Path) -> None:
    said = [
        {"video": f"{name}{n}.mp4", "label": "fake" if n else "real", "dataset": dataset, "group": str(n)}
        for name, dataset in (("x", "celebdf"), ("y", "dfdc"))
        for n in range(4)
    ]
    found = figures(_two_sets(tmp_path), write_labels(tmp_path / "l.csv", said))
    parts = {part["dataset"]: (part["videos.scored"], part["coverage"]) for part in found["parts"]}
    assert parts == {"celebdf": (3, 3 / 4), "dfdc": (3, 3 / 4)}
    assert found["groups"] == 8


def test_a_source_without_faces_leaves_several_without_frames_but_not_without_scores(tmp_path: Path) -> None:
    scores = _two_sets(tmp_path)[0]
    details = _two_sets(tmp_path, method=write_details_folder)[1]
    said = [(f"{name}{n}.mp4", "fake" if n else "real") for name in "xy" for n in range(3)]
    found = figures([scores, details], write_labels(tmp_path / "l.csv", said))
    assert (found["videos.scored"], found["video.auc"], found["frames"]) == (6, 1, None)
    assert found["aggregate"] == "as in the scores, max-track"


def test_groups_of_one_labels_file_are_whole_in_all_sources(tmp_path: Path) -> None:
    said = [
        {"video": f"{name}{n}.mp4", "label": "fake" if n else "real", "group": str(n)}
        for name in "xy"
        for n in range(3)
    ]
    assert figures(_two_sets(tmp_path), write_labels(tmp_path / "l.csv", said))["groups"] == 3


def _joined(path: Path, about: Sequence[VideoLabel], *, salt: str = "", split: str = "all") -> Scored:
    """Videos x0, x1, … with labels of the source's own, scored 0.5; the salt changes their contents."""
    keys = [f"x{n}" for n in range(len(about))]
    digests = [digest(salt + key) for key in keys]
    raw = RawScores(
        name=path.name,
        videos=[f"in/{key}.mp4" for key in keys],
        keys=keys,
        digests=digests,
        statuses=["ok"] * len(keys),
        probabilities=np.full(len(keys), 0.5),
        path=path.as_posix(),
    )
    rows = zip(keys, digests, about, strict=True)
    return join(raw, [LabelledVideo(f"in/{key}.mp4", key, one, sha256) for key, sha256, one in rows], split)


REAL, FAKE = VideoLabel("real"), VideoLabel("fake")


@pytest.mark.parametrize(
    ("about", "numbers"),
    [
        ([REAL, FAKE], [0, 1, 2, 3]),
        ([replace(REAL, group="g"), replace(FAKE, group="g")], [0, 0, 1, 1]),
        ([replace(REAL, group="g", dataset="ff"), replace(FAKE, group="h", dataset="ff")], [0, 1, 0, 1]),
        ([replace(REAL, identity="p", dataset="ff"), replace(FAKE, identity="p;q", dataset="ff")], [0, 0, 0, 0]),
        ([replace(REAL, dataset="ff"), replace(FAKE, dataset="ff")], [0, 1, 0, 1]),
    ],
    ids=[
        "equal names of different contents",
        "groups of two data sets",
        "groups",
        "people",
        "equal names of one data set",
    ],
)
def test_clusters_reach_over_the_sources_of_one_data_set_and_no_further(
    about: list[VideoLabel], numbers: list[int]
) -> None:
    merged = merge([_joined(Path("/a/work"), about, salt="c23"), _joined(Path("/b/work"), about, salt="c40")])
    assert merged.videos.clusters.tolist() == numbers


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/one.csv", "/d/two.csv"], ["one", "two"]),
        (["/d/x/scores.csv", "/d/y/scores.csv"], ["x/scores", "y/scores"]),
        (["/d/ffpp/work", "/d/celebdf/work", "/d/dfdc"], ["ffpp/work", "celebdf/work", "dfdc"]),
        (["/d/x/s.csv", "/d/x/s.json", "/d/t.csv"], ["s.csv", "s.json", "t.csv"]),
        (["/a/x/s.csv", "/b/x/s.csv"], ["a/x/s", "b/x/s"]),
        (["/d/v1.2", "/d/v1.3"], ["v1.2", "v1.3"]),
    ],
)
def test_sources_without_a_data_set_go_by_the_shortest_end_of_their_paths(paths: list[str], names: list[str]) -> None:
    parts = [_joined(Path(path), [REAL, FAKE], salt=path) for path in paths]
    assert merge(parts).videos.datasets[::2].tolist() == names


def test_files_of_one_name_are_two_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, probability in (("x", 0.1), ("y", 0.9)):
        (tmp_path / name).mkdir()
        rows = [
            score_row(f"{label}/{name}.mp4", probability, sha256=digest(label + name)) for label in ("real", "fake")
        ]
        write_score_file(tmp_path / name / "scores.csv", rows)
    monkeypatch.chdir(tmp_path / "x")
    found = figures([Path("scores.csv"), Path("../y/scores.csv")])
    assert {part["dataset"]: part["videos.scored"] for part in found["parts"]} == {"x/scores": 2, "y/scores": 2}


def test_a_folder_is_named_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _two_sets(tmp_path, method=write_details_folder)[0]
    monkeypatch.chdir(folder)
    labels = write_labels(tmp_path / "l.csv", [("x0.mp4", "real"), ("x1.mp4", "fake")])
    assert figures(Path("."), labels)["sources"] == ["one"]


@pytest.mark.parametrize(
    "said",
    [
        [{"video": f"x{n}.mp4", "label": "fake" if n else "real", "dataset": "dfdc"} for n in range(3)],
        [{"video": f"x{n}.mp4", "label": "fake" if n else "real"} for n in range(3)],
    ],
    ids=["of one data set", "of none"],
)
def test_a_label_that_two_sources_have_scored_is_refused(tmp_path: Path, said: list[dict[str, str]]) -> None:
    scores = _two_sets(tmp_path)[0]
    other = write_score_file(tmp_path / "other.csv", [score_row("x0.mp4", 0.3, sha256="")])
    with pytest.raises(
        DatasetError, match="the video x0 is in more than one of the sources, one and other; measure them"
    ):
        figures([scores, other], write_labels(tmp_path / "l.csv", said))


def test_a_content_that_two_sources_have_scored_is_refused() -> None:
    ours = _joined(Path("/a"), [REAL, FAKE])
    copy = [VideoLabel("real", dataset="other"), VideoLabel("fake", dataset="other")]
    with pytest.raises(DatasetError, match="the video x0 is in more than one of the sources, a and b"):
        merge([ours, _joined(Path("/b"), copy)])
    assert len(merge([ours, _joined(Path("/b"), copy, salt="other")]).videos) == 4


def test_a_content_that_two_sources_have_scored_under_two_labels_is_refused(tmp_path: Path) -> None:
    same = digest("same")
    scores = [write_score_file(tmp_path / f"{v}.csv", [score_row(f"{v}.mp4", 0.5, sha256=same)]) for v in "ab"]
    labels = write_labels(tmp_path / "l.csv", [("a.mp4", "fake"), ("b.mp4", "fake")])
    with pytest.raises(DatasetError, match="the video b is in more than one of the sources, a and b"):
        figures(scores, labels)


def test_a_key_without_content_is_one_video_in_one_data_set_only() -> None:
    def part(path: str, dataset: str | None) -> Scored:
        raw = RawScores(path, ["in/x.mp4"], ["x"], [""], ["unreadable"], np.array([np.nan]), path=path)
        return join(raw, [LabelledVideo(f"{path}/x.mp4", "x", VideoLabel("real", dataset=dataset))])

    assert len(merge([part("/a", None), part("/b", None)]).videos) == 2
    assert len(merge([part("/a", "ff"), part("/b", "dfdc")]).videos) == 2
    with pytest.raises(DatasetError, match="the video x is in more than one of the sources, a and b"):
        merge([part("/a", "ff"), part("/b", "ff")])

"""Whatever holds scores is recognised by what is in it and read alike; what holds none is refused with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines import EvaluateConfig
from pipelines.errors import ConfigError, DatasetError
from pipelines.evaluation.reading import kind_of
from pipelines.records import VideoRow, rows_to_table
from pipelines.workspace.labels import VideoLabel
from pipelines.workspace.manifest import Provenance, write_table
from tests.evaluation.tables import (
    MODEL_SHA256,
    digest,
    face_row,
    figures,
    score_row,
    wide,
    write_details_folder,
    write_labels,
    write_plain_details,
    write_score_file,
)
from tests.support import make_noise, write_faces_parquet

PROBABILITIES = {"a.mp4": ("real", 0.2), "b.mp4": ("real", 0.6), "c.mp4": ("fake", 0.5), "d.mp4": ("fake", 0.9)}
AUC = 3 / 4


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels.csv", [(video, label) for video, (label, _) in PROBABILITIES.items()])


def _scores(path: Path) -> Path:
    return write_score_file(path, [score_row(video, p, threshold=0.55) for video, (_, p) in PROBABILITIES.items()])


def _faces() -> list[Any]:
    return [face_row(video, frame, p) for video, (_, p) in PROBABILITIES.items() for frame in range(3)]


@pytest.mark.parametrize("name", ["scores.csv", "scores.json", "scores.parquet", "SCORES.CSV", "scores.PARQUET"])
def test_scores_are_read_in_every_format(tmp_path: Path, labels: Path, name: str) -> None:
    path = _scores(tmp_path / name)
    assert kind_of(path) == "scores"
    found = figures(path, labels)
    assert (found["video.auc"], found["videos.scored"], found["coverage"]) == (AUC, 4, 1)
    assert (found["threshold"], found["frames"], found["aggregate"]) == (0.55, None, "as in the scores")
    assert (found["checkpoint"], found["checkpoint_sha256"]) == ("tiny.safetensors", MODEL_SHA256)


def test_a_parquet_file_of_scores_may_have_any_name(tmp_path: Path, labels: Path) -> None:
    path = _scores(tmp_path / "scores.parquet").rename(tmp_path / "scores.data")
    assert figures(path, labels)["video.auc"] == AUC


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_scores_need_no_more_than_three_columns(tmp_path: Path, labels: Path, suffix: str) -> None:
    rows = [{"video": video, "status": "ok", "fake_probability": p} for video, (_, p) in PROBABILITIES.items()]
    path = tmp_path / f"scores.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        getattr(pd.DataFrame(rows), f"to_{suffix}")(path, index=False)
    found = figures(path, labels)
    assert (found["video.auc"], found["threshold"], found["checkpoint"]) == (AUC, None, None)
    assert found["video.accuracy_at_threshold"] != found["video.accuracy_at_threshold"]


@pytest.mark.parametrize(("thresholds", "expected"), [("0 0 0 0", 0.0), ("1 1 1 1", 1.0), ("0 1 0 1", None)])
def test_a_threshold_without_a_decimal_point_is_a_number_of_json(
    tmp_path: Path, labels: Path, thresholds: str, expected: float | None
) -> None:
    rows = [f"{video},ok,0.5,{value}\n" for video, value in zip(PROBABILITIES, thresholds.split(), strict=True)]
    path = _write(tmp_path / "s.csv", "video,status,fake_probability,threshold\n" + "".join(rows))
    found = figures(path, labels)["threshold"]
    assert found == expected and json.dumps(found)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_names_that_look_like_numbers_or_are_no_text_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    rows = [score_row("007.mp4", 0.1), score_row("1e3.mp4", 0.8), score_row("nan", 0.9), score_row("x\udcff.mp4", 0.2)]
    path = write_score_file(tmp_path / f"scores.{suffix}", rows)
    labels = write_labels(tmp_path / "l.csv", [("007.mp4", "real"), ("1e3.mp4", "fake"), ("nan", "fake")])
    found = figures(path, labels)
    assert (found["video.auc"], found["videos.scored"], found["coverage"]) == (1, 3, 1)


@pytest.mark.parametrize("make", [write_details_folder, write_plain_details], ids=["a folder", "one file"])
def test_details_are_read(tmp_path: Path, labels: Path, make: Callable[..., Path]) -> None:
    path = make(tmp_path / "details", _faces())
    assert kind_of(path) == "details"
    found = figures(path, labels)
    assert (found["video.auc"], found["frame.auc"], found["frames"]) == (AUC, AUC, 12)
    assert found["aggregate"] == "max-track"
    is_known = path.is_dir()
    assert (found["threshold"], found["checkpoint_sha256"]) == ((0.5, MODEL_SHA256) if is_known else (None, None))


def test_details_of_the_format_without_video_keys_and_boxes_are_read(tmp_path: Path, labels: Path) -> None:
    drop = ["video_key", "sha256", "x0_px", "y0_px", "x1_px", "y1_px"]
    path = write_plain_details(tmp_path / "old.parquet", _faces(), drop=drop)
    assert figures(path, labels)["video.auc"] == AUC
    assert figures(path, labels, EvaluateConfig(bootstrap=0, protocol="paper"))["frame.auc"] == AUC


def test_details_of_several_checkpoints_are_refused_and_two_are_named(tmp_path: Path, labels: Path) -> None:
    faces = _faces()
    write_details_folder(tmp_path / "d", faces[:6])
    write_details_folder(tmp_path / "d", faces[6:], model_sha256="c" * 64)
    with pytest.raises(
        ConfigError, match="/d holds details of several checkpoints: .* use a separate folder"
    ) as caught:
        figures(tmp_path / "d", labels)
    assert all(f"by tiny.safetensors ({letter * 12})" in str(caught.value) for letter in "ac")


def test_details_of_several_thresholds_name_none(tmp_path: Path, labels: Path) -> None:
    faces = _faces()
    write_details_folder(tmp_path / "d", faces[:6])
    found = figures(write_details_folder(tmp_path / "d", faces[6:], threshold="0.7"), labels)
    assert (found["video.auc"], found["checkpoint_sha256"], found["threshold"]) == (AUC, None, None)


@pytest.mark.parametrize("row", [0, 2])
def test_a_face_without_a_probability_is_refused_with_its_file_and_row(tmp_path: Path, labels: Path, row: int) -> None:
    faces = _faces()
    wrong = 3 + row  # the second video's
    faces[wrong] = face_row("b.mp4", row, float("nan"))
    folder = write_details_folder(tmp_path / "d", faces)
    file = folder / f"{digest('b.mp4')[:16]}.parquet"
    with pytest.raises(ConfigError, match=f"{file}: the face in row {row + 1} has no probability; make it again by"):
        figures(folder, labels)


def test_details_without_labels_tell_what_they_do_not_list(tmp_path: Path) -> None:
    faces = [face_row(f"{label}/{video}", 0, p) for video, (label, p) in PROBABILITIES.items()]
    found = figures(write_details_folder(tmp_path / "d", faces))
    told = "details do not list videos without a face, nor copies; pass --labels to count them"
    assert found["video.auc"] == AUC and found["notes"].count(told) == 1
    scores = [score_row(f"{label}/{video}", p) for video, (label, p) in PROBABILITIES.items()]
    assert told not in figures(write_score_file(tmp_path / "s.csv", scores))["notes"]


def test_workspaces_and_crops_are_recognised(imported_faces: Path, tmp_path: Path) -> None:
    crops = write_faces_parquet(tmp_path / "crops.parquet", [{"image": make_noise(0), "video": "a", "label": "real"}])
    assert (kind_of(imported_faces), kind_of(crops)) == ("workspace", "crops")


def test_labels_may_be_a_videos_manifest(tmp_path: Path) -> None:
    rows = [
        VideoRow(digest(v)[:16], digest(v), v.removesuffix(".mp4"), f"/x/{v}", **vars(VideoLabel(label)))
        for v, (label, _) in PROBABILITIES.items()
    ]
    manifest = tmp_path / "videos.parquet"
    write_table(rows_to_table(rows, VideoRow), manifest, Provenance("index", 1, {}))
    assert figures(_scores(tmp_path / "s.csv"), manifest)["video.auc"] == AUC


def test_folders_named_real_and_fake_are_labels(tmp_path: Path) -> None:
    named = [score_row(f"/data/{label}/{video}", p) for video, (label, p) in PROBABILITIES.items()]
    path = write_score_file(tmp_path / "s.csv", [*named, score_row("/data/other.mp4", 0.0)])
    assert figures(path)["video.auc"] == AUC
    with pytest.raises(DatasetError, match="nothing says which videos are real; pass --labels"):
        figures(_scores(tmp_path / "t.csv"))


def _write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


SCORES = "pass a file of scores made by: deepfake predict -o"
KINDS = r"pass scores \(.csv, .parquet, .json\), a --details folder, a workspace, or a Parquet of cropped faces"
HEADER = "video,status,fake_probability\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "hello", f"a.txt is not a readable Parquet file .*; {KINDS}"),
        ("a.csv", "", "a.csv is not a readable table of scores: No columns"),
        ("a.csv", HEADER, "a.csv holds no rows"),
        ("a.csv", "video,label\na.mp4,real\n", f"a.csv has no column 'status'; {SCORES}"),
        ("a.csv", "video,status\na.mp4,ok\n", f"a.csv has no column 'fake_probability'; {SCORES}"),
        ("a.csv", "\x89PNG\r\n\x1a\n", "a.csv has no column 'video'"),
        ("a.csv", HEADER + "a.mp4,ok,1.5\n", "a.csv holds probabilities outside 0..1, such as 1.5"),
        ("a.csv", HEADER + "a.mp4,ok,-0.5\n", "outside 0..1, such as -0.5"),
        ("a.csv", HEADER + "a.mp4,ok,inf\n", "outside 0..1, such as inf"),
        ("a.csv", HEADER + 'a.mp4,ok,"0,9"\n', "a.csv holds the probability '0,9', which is not a number"),
        (
            "a.csv",
            "video,status,fake_probability,threshold\na.mp4,ok,0.5,1.5\n",
            "a.csv holds the threshold 1.5; it must",
        ),
        (
            "a.csv",
            "video,status,fake_probability,threshold\na.mp4,ok,0.5,-1\n",
            "a.csv holds the threshold -1; it must",
        ),
        ("a.json", "{", "a.json is not a readable table of scores"),
        ("a.json", "[]", "a.json has no column 'video'"),
        ("a.json", "7", "a.json is not a readable table of scores"),
        ("a.json", b"[\xff]", "a.json is not a readable table of scores"),
        ("a.parquet", b"PAR1nonsense", "a.parquet is not a readable Parquet file"),
        (".", "", f"holds neither a detect-faces stage nor details of predict; {KINDS}"),
        ("nothing.csv", "", f"nothing.csv does not exist; {KINDS}"),
    ],
)
def test_what_holds_no_scores_is_refused(tmp_path: Path, labels: Path, name: str, content: str, message: str) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    path = folder / name
    if name not in (".", "nothing.csv"):
        _write(path, content)
    with pytest.raises(ConfigError, match=message) as caught:
        figures(path, labels)
    assert len(str(caught.value).strip().splitlines()) == 1


def test_other_parquet_files_are_refused(tmp_path: Path, labels: Path, imported_faces: Path) -> None:
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="x.parquet holds no scores, no details and no pictures"):
        figures(tmp_path / "x.parquet", labels)
    with pytest.raises(ConfigError, match="manifest.parquet has no column 'fake_probability'; pass what was made by"):
        figures(imported_faces / "detect-faces", labels)
    empty = write_plain_details(tmp_path / "empty.parquet", [])
    with pytest.raises(ConfigError, match="empty.parquet holds no scored face"):
        figures(empty, labels)
    wrong = write_plain_details(tmp_path / "wrong.parquet", [face_row("a.mp4", 0, 1.25, **wide(5))])
    with pytest.raises(ConfigError, match="wrong.parquet holds probabilities outside 0..1, such as 1.25"):
        figures(wrong, labels)


def test_labels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="empty.csv holds no rows; name the videos"):
        figures(_scores(tmp_path / "s.csv"), write_labels(tmp_path / "empty.csv", []))


def test_an_empty_probability_is_a_video_without_a_score(tmp_path: Path, labels: Path) -> None:
    rows = [asdict(score_row(video, p)) for video, (_, p) in PROBABILITIES.items()]
    rows[0] |= {"fake_probability": "", "status": "failed"}
    rows[1] |= {"fake_probability": "NaN", "status": "unreadable"}
    pd.DataFrame(rows).to_csv(tmp_path / "s.csv", index=False)
    found = figures(tmp_path / "s.csv", labels)
    assert (found["videos.scored"], found["coverage"]) == (2, 0.5)
    assert found["statuses"] == {"failed": 1, "unreadable": 1, "ok": 2}

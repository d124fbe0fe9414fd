"""Frames and videos are scored as published evaluations do it: by hand on tables of a few faces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import EvaluateConfig
from pipelines.records import FaceScoreRow
from pipelines.scoring.aggregate import aggregate_video
from pipelines.scoring.metrics import log_loss
from tests.evaluation.tables import (
    face_row,
    figures,
    report_of,
    wide,
    write_details_folder,
    write_labels,
    write_plain_details,
)

NO_BOX = dict.fromkeys(("x0_px", "y0_px", "x1_px", "y1_px"))

FAR_AND_SMALL = {"x0_px": 100.0, "y0_px": 100.0, "x1_px": 105.0, "y1_px": 105.0}


def _config(**changes: Any) -> EvaluateConfig:
    return replace(EvaluateConfig(bootstrap=0), **changes)


def _measure(folder: Path, faces: Sequence[FaceScoreRow], **changes: Any) -> dict[str, Any]:
    """Videos whose names begin with r are real."""
    names = sorted({face.video for face in faces})
    labels = write_labels(folder / "l.csv", [(v, "real" if v.startswith("r") else "fake") for v in names])
    return figures(write_plain_details(folder / "d.parquet", faces), labels, _config(**changes))


def _mean_of_fake(found: dict[str, Any]) -> float:
    """The probability of a lone fake, by its Brier score (1 - p)²."""
    return float(1 - found["video.brier"] ** 0.5)


@pytest.mark.parametrize(
    ("protocol", "expected"), [("paper", 0.2), ("deepfakebench", 0.2), ("sbi", 0.8)], ids=lambda value: str(value)
)
def test_of_several_faces_in_a_frame_the_protocols_face_counts(tmp_path: Path, protocol: str, expected: float) -> None:
    faces = [
        face_row("f.mp4", frame, p, face_index=index, track=index, **wide(side))
        for frame in range(3)
        for index, (p, side) in enumerate([(0.8, 10), (0.2, 20), (0.5, 5)])
    ]
    found = _measure(tmp_path, faces, protocol=protocol)
    assert found["frames"] == 3
    assert _mean_of_fake(found) == pytest.approx(expected)
    assert found["frame.log_loss"] == pytest.approx(log_loss([1], [expected]))
    assert found["aggregate"] == "mean of the frames"


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [(({}, {}), 0.8), ((NO_BOX, NO_BOX), 0.8), ((wide(1), NO_BOX), 0.2), (({}, FAR_AND_SMALL), 0.2)],
    ids=["equally large", "no boxes", "any box is larger than none", "not the one farthest down and right"],
)
def test_of_equally_large_faces_the_more_suspicious_one_counts(
    tmp_path: Path, boxes: tuple[dict[str, Any], dict[str, Any]], expected: float
) -> None:
    first, second = boxes
    faces = [face_row("f.mp4", 0, 0.2, **first), face_row("f.mp4", 0, 0.8, face_index=1, **second)]
    assert _mean_of_fake(_measure(tmp_path, faces, protocol="paper")) == pytest.approx(expected)
    assert _mean_of_fake(_measure(tmp_path, faces[::-1], protocol="paper")) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("protocol", "there", "taken"),
    [
        ("paper", 30, list(range(30))),
        ("paper", 59, [n * 2 for n in range(30)]),
        ("paper", 291, [n * 10 for n in range(30)]),
        ("deepfakebench", 32, list(range(32))),
        ("deepfakebench", 311, [n * 10 for n in range(32)]),
        ("sbi", 63, [n * 2 for n in range(32)]),
        ("paper", 4, [0, 1, 2, 3]),
    ],
)
def test_frames_are_spread_evenly_from_the_first_to_the_last(
    tmp_path: Path, protocol: str, there: int, taken: list[int]
) -> None:
    values = np.random.default_rng(there).random(there)
    faces = [face_row("f.mp4", 7 * n, float(p)) for n, p in enumerate(values)]
    found = _measure(tmp_path, faces[::-1], protocol=protocol)
    assert found["frames"] == len(taken)
    assert _mean_of_fake(found) == pytest.approx(values[taken].mean())


def test_frames_are_spread_in_each_video_by_itself(tmp_path: Path) -> None:
    faces = [face_row(video, n, n % 2) for video, many in (("f.mp4", 59), ("r.mp4", 5)) for n in range(many)]
    found = _measure(tmp_path, faces, protocol="paper")
    assert found["frames"] == 30 + 5
    assert found["video.brier"] == pytest.approx((1 + (2 / 5) ** 2) / 2)


def test_a_video_is_the_mean_of_its_frames_and_not_of_its_faces(tmp_path: Path) -> None:
    faces = [face_row("f.mp4", 0, 0.9), face_row("f.mp4", 1, 0.1)]
    faces += [face_row("f.mp4", 1, 0.0, face_index=n, **wide(1)) for n in (1, 2, 3)]
    assert _mean_of_fake(_measure(tmp_path, faces, protocol="deepfakebench")) == pytest.approx(0.5)


@pytest.mark.parametrize("aggregate", ["max-track", "mean", None])
def test_without_a_protocol_videos_are_aggregated_as_predict_does(tmp_path: Path, aggregate: Any) -> None:
    rng = np.random.default_rng(1)
    faces = [
        face_row("f.mp4", n // 3, float(rng.random()), face_index=n % 3, track=n % 3, **wide(1 + n % 4))
        for n in range(30)
    ]
    found = _measure(tmp_path, faces, aggregate=aggregate)
    expected = aggregate_video([f.fake_probability for f in faces], [f.track for f in faces], aggregate or "max-track")
    assert _mean_of_fake(found) == pytest.approx(expected)
    assert found["aggregate"] == (aggregate or "max-track")
    worst = [max(f.fake_probability for f in faces if f.frame_index == n) for n in range(10)]
    assert (found["frames"], found["frame.log_loss"]) == (10, pytest.approx(log_loss([1] * 10, worst)))


@pytest.mark.parametrize("protocol", [None, "paper", "deepfakebench", "sbi"])
def test_the_order_of_rows_and_of_files_does_not_matter(tmp_path: Path, protocol: Any) -> None:
    rng = np.random.default_rng(2)
    faces = [
        face_row(
            f"{'rf'[n % 2]}{n}.mp4", frame, float(rng.choice([0.2, 0.5, 0.9])), face_index=k, **wide(rng.choice([5, 9]))
        )
        for n in range(6)
        for frame in range(40)
        for k in range(int(rng.integers(1, 4)))
    ]
    expected = _measure(tmp_path, faces, protocol=protocol)
    shuffled = [faces[index] for index in rng.permutation(len(faces))]
    assert json.dumps(_measure(tmp_path, shuffled, protocol=protocol)) == json.dumps(expected)
    labels = tmp_path / "l.csv"
    folder = write_details_folder(tmp_path / "folder", shuffled)
    found = figures(folder, labels, _config(protocol=protocol))
    for name in ("video.auc", "frame.auc", "video.brier", "frame.log_loss"):
        assert found[name] == expected[name]


@pytest.mark.parametrize(("protocol", "level"), [("paper", "frame"), ("deepfakebench", "frame"), ("sbi", "video")])
def test_the_report_says_what_the_protocol_is_and_quotes_its_figure(tmp_path: Path, protocol: Any, level: str) -> None:
    faces = [
        face_row(f"{y}{n}.mp4", k, p) for y, n, p in (("r", 0, 0.1), ("r", 1, 0.6), ("f", 0, 0.5)) for k in range(n + 1)
    ]
    labels = write_labels(tmp_path / "l.csv", [("r0.mp4", "real"), ("r1.mp4", "real"), ("f0.mp4", "fake")])
    report = report_of(write_plain_details(tmp_path / "d.parquet", faces), labels, _config(protocol=protocol))
    found = report.to_json()
    assert (found["protocol"]["name"], found["protocol"]["level"]) == (protocol, level)
    assert (found["video.auc"], found["frame.auc"]) == (1 / 2, pytest.approx(1 / 3))
    text = " ".join(report.to_text().split())
    assert f"protocol {protocol}: {level} level, {found['protocol']['frames']} frames per video" in text
    assert f"quoted figure {level}-level AUC {found[f'{level}.auc']:.3f}" in text
    few = f"3 videos have fewer than the protocol's {found['protocol']['frames']} frames with a face"
    assert few in found["notes"] and f"note: {few}" in text


@pytest.mark.parametrize(("protocol", "quoted"), [("paper", "1.000"), ("deepfakebench", "1.000"), ("sbi", "0.875")])
def test_a_video_without_a_face_is_left_out_or_counts_as_half_as_the_protocol_says(
    tmp_path: Path, protocol: Any, quoted: str
) -> None:
    faces = [face_row("r0.mp4", 0, 0.2), face_row("f0.mp4", 0, 0.9), face_row("r1.mp4", 0, 0.5)]
    labels = write_labels(
        tmp_path / "l.csv", [("r0.mp4", "real"), ("r1.mp4", "real"), ("f0.mp4", "fake"), ("f1.mp4", "fake")]
    )
    report = report_of(write_plain_details(tmp_path / "d.parquet", faces), labels, _config(protocol=protocol))
    found = report.to_json()
    assert (found["video.auc"], found["video_all.auc"]) == (1.0, 0.875)
    assert f"level AUC {quoted}" in " ".join(report.to_text().split())


def test_enough_frames_need_no_note(tmp_path: Path) -> None:
    faces = [face_row(video, n, 0.5) for video in ("r.mp4", "f.mp4") for n in range(32)]
    found = _measure(tmp_path, faces, protocol="deepfakebench")
    assert not any("fewer than" in note for note in found["notes"])

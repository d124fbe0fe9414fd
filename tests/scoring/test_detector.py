"""`Detector` gives `predict`'s scores for files, RGB arrays and batches, and a status where there is no score."""

from __future__ import annotations

import math
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipelines import Detector, PredictConfig, RunOptions, predict
from pipelines.checkpoints import weights_files
from pipelines.errors import ConfigError
from pipelines.records import ScoreRow
from pipelines.system.file_digest import file_digest
from tests.support import encode_png, make_pool_here

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Detector:
    return Detector(checkpoint)


def test_a_file_has_the_score_of_predict_with_its_faces(
    detector: Detector, checkpoint: Path, clip: Path, forged_clip: Path
) -> None:
    rows = {row.video: row for row in predict([clip, forged_clip], PredictConfig(str(checkpoint))).rows}
    for path in (clip, str(forged_clip)):
        score, row = detector.score(path), rows[str(path)]
        assert (score.status, score.verdict, score.error) == ("ok", row.verdict, None)
        assert score.fake_probability == pytest.approx(row.fake_probability, abs=1e-6)
        assert (score.num_frames, len(score.faces), score.num_tracks) == (row.frames, row.faces, row.tracks)
        assert all(0 <= face.fake_probability <= 1 and face.track == 0 and face.box for face in score.faces)
        assert len({face.frame_index for face in score.faces}) == 4


def test_an_rgb_array_has_the_score_of_the_same_picture(
    detector: Detector, face_pictures: dict[str, list[Image]], tmp_path: Path
) -> None:
    for number, picture in enumerate(face_pictures["fake"]):
        path = tmp_path / f"{number}.png"
        path.write_bytes(encode_png(picture))
        assert detector.score(picture) == detector.score(path)
        swapped = detector.score(picture[..., ::-1])
        assert swapped.fake_probability != detector.score(path).fake_probability


def test_what_cannot_be_scored_has_a_status_and_an_error(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        score = detector.score(tmp_path / name)
        assert score.status == "unreadable" and score.error and name in score.error
        assert score.fake_probability is None and score.verdict is None and score.faces == []
    black = detector.score(np.zeros((64, 64, 3), np.uint8))
    assert (black.status, black.fake_probability, black.num_frames) == ("no_face", None, 1)


@pytest.mark.parametrize(
    "array", [np.zeros((8, 8)), np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_an_array_that_is_no_rgb_picture_is_refused(detector: Detector, array: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be \(H, W, 3\) uint8 in RGB order, got \("):
        detector.score(array)


def test_many_files_are_a_table_with_the_columns_of_a_score_file(
    detector: Detector, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    shutil.copy(clip, tmp_path / "copy.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    inputs: list[str | Path] = [str(clip), tmp_path]
    table = detector.score_many(inputs)
    assert list(table.columns) == [field.name for field in fields(ScoreRow)]
    rows = predict(inputs, PredictConfig(str(checkpoint))).rows
    for name in ("video", "video_key", "sha256", "status", "settings_sha256", "faces"):
        assert table[name].tolist() == [getattr(row, name) for row in rows]
    scored = dict(zip(table["status"], table["fake_probability"], strict=True))
    assert scored["ok"] == pytest.approx(rows[0].fake_probability, abs=1e-6) and math.isnan(scored["unreadable"])


def test_the_settings_of_predict_apply(checkpoint: Path, clip: Path) -> None:
    config = PredictConfig(str(checkpoint), frames=2, threshold=0.0, min_frames=3)
    score = Detector(config=config).score(clip)
    assert (score.status, score.num_frames, score.fake_probability) == ("too_few_frames", 2, None)
    with pytest.raises(ConfigError, match="unknown device 'quantum'"):
        Detector(checkpoint, device="quantum")


def test_weights_are_hashed_once(
    checkpoint: Path, clip: Path, detector_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return file_digest(path)

    monkeypatch.setattr(weights_files, "file_digest", count)
    predict(clip, PredictConfig(str(checkpoint)))
    assert sorted(hashed) == sorted([checkpoint, detector_file])


def test_several_workers_are_as_many_processes_without_isolate_too(
    checkpoint: Path, clip: Path, forged_clip: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr("pipelines.scoring.batch.WorkerPool", make_pool_here(counts))
    config, videos = PredictConfig(str(checkpoint)), [clip, forged_clip]
    two = predict(videos, config, RunOptions(workers=2)).rows
    assert counts == [2]
    assert detector.score_many(videos, workers=2)["fake_probability"].tolist() == [row.fake_probability for row in two]
    assert counts == [2, 2]
    assert predict(videos, config, RunOptions(workers=1)).rows == two and counts == [2, 2]

"""A face's forgery map reaches scores and details, and its peak is found again in the frame."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from pipelines import (
    DetectConfig,
    Detector,
    ExtractConfig,
    PredictConfig,
    detect_faces,
    extract_frames,
    inspect,
    predict,
    predict_faces,
)
from pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.config import RunOptions
from pipelines.engines.engine import FaceScores
from pipelines.errors import InputError
from pipelines.models import build_model
from pipelines.records import FaceRow, table_to_rows
from pipelines.scoring.forgery_map import describe_map
from pipelines.scoring.settings import resolve_settings
from pipelines.scoring.video_score import StoredFaces
from pipelines.video import open_video
from pipelines.workspace.manifest import read_table
from tests.conftest import Deepfake
from tests.support import encode_png

Image = npt.NDArray[np.uint8]
COLUMNS = ["forgery_map", "forged_share", "forgery_peak", "forgery_x_px", "forgery_y_px"]
DOT_PX = (242.0, 128.0)
"""On the nose's side in the frame that `_turned` turns."""
DEGREES, ENLARGED = 20.0, 1.4
TOLERANCE_PX = 8.0
"""Half a cell of the map in the frame, and some of the dot's radius."""


class Spotter:
    """An engine whose maps show how green a place of the network's input is, at a quarter of its size."""

    def classify(self, images: Sequence[Image]) -> FaceScores:
        pictures = np.stack(images).astype(np.float32)
        green = np.clip(pictures[..., 1] - pictures[..., [0, 2]].max(axis=3), 0, 255) / 255
        count, height, width = green.shape
        cells = green.reshape(count, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
        return FaceScores([0.5] * count, cells)


def test_the_figures_of_a_map_are_counted_and_its_peak_is_placed_by_hand() -> None:
    values = np.zeros((4, 8), np.float32)
    values[3, 2], values[0, 7], values[1, 1] = 0.875, 0.5, 0.499
    contract = Preprocessing(crop_box=(100, 60, 260, 220), input_size=32)
    in_crop = np.array([(150, 170), (230, 170), (190, 210), (160, 260), (220, 260)], dtype=np.float64)
    in_frame = np.stack([20 - 2 * in_crop[:, 1], 7 + 2 * in_crop[:, 0]], axis=1)  # a quarter turn, twice as large
    found = describe_map(values, contract, in_crop, in_frame)
    # cell (3, 2) of 20 x 40 pixels: centre at 100 + 2.5 * 20 - 0.5, 60 + 3.5 * 40 - 0.5 of the crop
    assert found.peak_place == pytest.approx((20 - 2 * 199.5, 7 + 2 * 149.5))
    assert (found.peak, found.forged_share) == (0.875, 2 / 32)
    assert found.image.dtype == np.uint8
    assert (found.image[3, 2], found.image[0, 7], found.image[1, 1], found.image[0, 0]) == (223, 128, 127, 0)
    assert describe_map(values, contract, in_crop, np.full((5, 2), np.nan)).peak_place is None
    assert describe_map(values, contract, np.full((5, 2), 3.0), in_frame).peak_place is None


def _turned(picture: Image) -> tuple[Image, npt.NDArray[np.float64]]:
    """The frame with a green dot, turned and enlarged; where the dot then is."""
    picture = picture.copy()
    cv2.circle(picture, (int(DOT_PX[0]), int(DOT_PX[1])), 4, (0, 255, 0), -1)
    turn = cv2.getRotationMatrix2D((240, 160), DEGREES, ENLARGED)
    return cv2.warpAffine(picture, turn, (480, 480)), turn @ (*DOT_PX, 1)


@pytest.mark.parametrize(("margin", "crop_box"), [(1.0, (94, 118, 286, 310)), (1.3, (20, 40, 340, 360))])
def test_the_peak_of_a_map_is_where_the_mark_is_in_the_frame_by_either_path(
    margin: float, crop_box: tuple[int, int, int, int], map_checkpoint: Path, detector_file: Path, clip: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    with open_video(clip) as video:
        frame, dot = _turned(next(iter(video.frames([0]))).image)
    (tmp_path / "frame.png").write_bytes(encode_png(frame))
    loaded = load_checkpoint(str(map_checkpoint), build_model)
    contract = replace(loaded.header.preprocessing, margin=margin, crop_box=crop_box)
    checkpoint = tmp_path / "other.safetensors"
    save_checkpoint(checkpoint, loaded.network.state_dict(), replace(loaded.header, preprocessing=contract))
    detector = Detector(checkpoint)
    detector.engine = Spotter()
    (direct,) = detector.score(tmp_path / "frame.png").faces
    extract_frames([tmp_path / "frame.png"], tmp_path / "work", ExtractConfig(frames=1))
    detect_faces(tmp_path / "work", DetectConfig(detector=str(detector_file), margin=margin))
    folder = tmp_path / "work" / "detect-faces"
    rows = table_to_rows(read_table(folder / "manifest.parquet", FaceRow), FaceRow)
    (stored,) = detector.score(StoredFaces(Path("frame.png"), folder, tuple(rows), 1)).faces
    for face in (direct, stored):
        assert face.forgery_map is not None and face.forgery_map.peak_place is not None
        assert np.abs(np.subtract(face.forgery_map.peak_place, dot)).max() < TOLERANCE_PX
    assert direct.forgery_map is not None and direct.forgery_map == stored.forgery_map


def test_details_hold_the_map_of_each_face_and_its_figures(
    map_checkpoint: Path, clip: Path, faces_workspace: Path, tmp_path: Path
) -> None:
    config = PredictConfig(str(map_checkpoint))
    (row,) = predict(clip, config, details=tmp_path / "direct").rows
    score = Detector(map_checkpoint).score(clip)
    assert (row.status, row.fake_probability) == ("ok", pytest.approx(score.fake_probability, abs=1e-6))
    predict_faces(faces_workspace, config, details=tmp_path / "staged")
    for folder, tolerance in (("direct", 1), ("staged", 2)):
        records = pq.read_table(tmp_path / folder / f"{row.sha256[:16]}.parquet").to_pylist()
        assert len(records) == len(score.faces) == 4
        for record, face in zip(records, score.faces, strict=True):
            found = face.forgery_map
            assert found is not None and found.peak_place is not None
            assert record["forgery_map"].startswith(b"\x89PNG")
            image = cv2.imdecode(np.frombuffer(record["forgery_map"], np.uint8), cv2.IMREAD_UNCHANGED)
            assert image.shape == (16, 16) and image.dtype == np.uint8
            assert np.abs(image.astype(int) - found.image).max() <= tolerance
            assert record["forged_share"] == pytest.approx((image >= 128).mean(), abs=1e-9)
            assert record["forgery_peak"] == pytest.approx(image.max() / 255, abs=0.5 / 255 + 1e-6)
            place = record["forgery_x_px"], record["forgery_y_px"]
            assert place == pytest.approx(found.peak_place, abs=1e-3)
            assert record["x0_px"] - 100 < place[0] < record["x1_px"] + 100
    maps = [face.forgery_map.image for face in score.faces if face.forgery_map]
    assert len(maps) == 4 and any((maps[0] != other).any() for other in maps[1:])
    again = pickle.loads(pickle.dumps(score))  # as worker processes hand it over
    assert again == score and (again.faces[2].forgery_map.image == maps[2]).all()


def test_a_network_without_a_mask_branch_leaves_the_columns_empty(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    (row,) = predict(clip, PredictConfig(str(checkpoint)), details=tmp_path).rows
    table = pq.read_table(tmp_path / f"{row.sha256[:16]}.parquet")
    assert table.num_rows == 4 and all(table[name].null_count == 4 for name in COLUMNS)
    assert [face.forgery_map for face in Detector(checkpoint).score(clip).faces] == [None] * 4


def test_an_imported_face_that_was_not_found_again_has_a_map_and_no_place(
    map_checkpoint: Path, imported_faces: Path, tmp_path: Path
) -> None:
    rows = table_to_rows(read_table(imported_faces / "detect-faces" / "manifest.parquet", FaceRow), FaceRow)
    settings = resolve_settings(PredictConfig(str(map_checkpoint)))
    detector = Detector.from_settings(settings, RunOptions(device="cpu"))
    folder = imported_faces / "detect-faces"
    (face,) = detector.score(StoredFaces(Path("a"), folder, tuple(rows[:1]), 1)).faces
    assert face.forgery_map is not None and face.forgery_map.peak_place is None and face.forgery_map.peak > 0


@pytest.mark.parametrize(
    "maps", [np.full((1, 4, 4), 1.01), np.full((1, 4, 4), -0.01), np.full((1, 4, 4), np.nan), np.zeros((2, 4, 4))]
)
def test_a_map_that_holds_something_else_than_0_to_1_is_refused(maps: Any, map_checkpoint: Path) -> None:
    detector = Detector(map_checkpoint)
    detector.engine = type("Engine", (), {"classify": lambda _self, _images: FaceScores([0.5], maps)})()
    with pytest.raises(InputError, match=r"gives no forgery maps with values in 0\.\.1 for these faces; use another"):
        detector.classify([np.zeros((64, 64, 3), np.uint8)])


def test_inspecting_details_names_the_maps_and_prints_none(
    map_checkpoint: Path, clip: Path, tmp_path: Path, deepfake: Deepfake
) -> None:
    predict(clip, PredictConfig(str(map_checkpoint)), details=tmp_path)
    (path,) = tmp_path.iterdir()
    assert inspect(path).facts["columns"]["forgery_map"] == "binary"
    for options in ([], ["--json"]):
        result = deepfake("inspect", path, *options)
        assert result.exit_code == 0 and "binary" in result.stdout and "PNG" not in result.stdout

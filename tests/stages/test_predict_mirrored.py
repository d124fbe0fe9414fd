"""A checkpoint whose contract asks for it is scored on each face and on its mirror image."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from pipelines import PredictConfig, predict_faces
from pipelines.checkpoints.checkpoint import read_header, save_checkpoint
from pipelines.checkpoints.weights_files import read_state


def test_a_mirrored_contract_takes_the_mean_of_a_face_and_its_mirror_image(
    faces_workspace: Path, checkpoint: Path, tmp_path: Path
) -> None:
    header, mirrored = read_header(checkpoint), tmp_path / "mirrored.safetensors"
    contract = replace(header.preprocessing, mirrored=True)
    save_checkpoint(mirrored, read_state(checkpoint), replace(header, preprocessing=contract))
    turned = shutil.copytree(faces_workspace, tmp_path / "turned")
    for crop in (turned / "detect-faces" / "crops").rglob("*.png"):
        cv2.imwrite(str(crop), np.ascontiguousarray(cv2.imread(str(crop))[:, ::-1]))
    box = (190 - 96, 118, 190 + 96, 310)  # in the middle, so that the mirrored crop gives the mirrored input
    assert contract.crop_box == box
    as_it_is, other = (
        _face_probabilities(folder, checkpoint, tmp_path / name)
        for folder, name in ((faces_workspace, "a"), (turned, "b"))
    )
    both = _face_probabilities(faces_workspace, mirrored, tmp_path / "c")
    assert both == pytest.approx((as_it_is + other) / 2, abs=1e-6)
    assert np.abs(as_it_is - other).max() > 1e-3


def _face_probabilities(workspace: Path, checkpoint: Path, details: Path) -> npt.NDArray[np.float64]:
    predict_faces(workspace, PredictConfig(checkpoint=str(checkpoint)), details=details)
    tables = [pq.read_table(path) for path in sorted(details.iterdir())]
    return np.concatenate([table.column("fake_probability").to_numpy() for table in tables])

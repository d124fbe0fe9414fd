"""Faces scored under perturbations: unchanged faces as `predict` scores them, changed ones by nothing but their own seed."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import DetectConfig, PredictConfig, RunOptions, detect_faces, predict_faces
from pipelines.errors import ConfigError, InputError, ManifestError
from pipelines.evaluation.perturbations import CLEAN, Perturbation, perturb_image
from pipelines.evaluation.robustness import PerturbedFaces, score_perturbed
from pipelines.system.image_files import read_image, write_image
from pipelines.system.progress import Progress

CONDITIONS = (
    Perturbation("jpeg", 30),
    Perturbation("h264", 40),
    Perturbation("blur", 3),
    Perturbation("noise", 20),
    Perturbation("brightness", 0.5),
)
SAME = 1e-5
"""Networks round differently in batches of other sizes; what the conditions change is far more."""


@pytest.fixture(scope="module")
def scored(faces_workspace: Path, checkpoint: Path) -> dict[str, PerturbedFaces]:
    return score_perturbed(faces_workspace, str(checkpoint), CONDITIONS, RunOptions(batch_size=4))


def _column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return np.asarray(table[name].to_pylist())


def test_clean_faces_score_as_in_the_details_of_predict(
    scored: dict[str, PerturbedFaces], faces_workspace: Path, checkpoint: Path, tmp_path: Path
) -> None:
    predict_faces(faces_workspace, PredictConfig(checkpoint=str(checkpoint)), details=tmp_path)
    clean = scored[CLEAN]
    assert len(clean.probabilities) == 8
    for path in tmp_path.iterdir():
        chosen = clean.video_ids == path.stem
        details = pq.read_table(path)
        assert chosen.sum() == details.num_rows == 4
        for mine, name in (("frames", "frame_index"), ("faces", "face_index"), ("tracks", "track")):
            assert np.array_equal(getattr(clean, mine)[chosen], _column(details, name))
        sides = [_column(details, f"{axis}1_px") - _column(details, f"{axis}0_px") for axis in "xy"]
        assert clean.areas[chosen] == pytest.approx(sides[0] * sides[1])
        assert np.abs(clean.probabilities[chosen] - _column(details, "fake_probability")).max() < 1e-6


def test_every_condition_is_there_and_has_the_same_faces_in_the_manifests_order(
    scored: dict[str, PerturbedFaces], faces_workspace: Path
) -> None:
    assert list(scored) == [CLEAN, "jpeg 30", "h264 40", "blur 3", "noise 20", "brightness 0.5"]
    manifest = pq.read_table(faces_workspace / "detect-faces" / "manifest.parquet")
    for faces in scored.values():
        assert np.array_equal(faces.video_ids, _column(manifest, "video_id"))
        assert np.array_equal(faces.frames, _column(manifest, "frame_index"))
        assert np.isfinite(faces.probabilities).all()
        assert {len(getattr(faces, field.name)) for field in fields(faces)} == {8}


def test_a_condition_scores_the_crops_that_it_makes(
    scored: dict[str, PerturbedFaces], faces_workspace: Path, checkpoint: Path, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    for condition in CONDITIONS:
        if condition.kind == "noise":
            continue
        for crop in (faces_workspace / "detect-faces" / "crops").glob("*/*.png"):
            made = perturb_image(read_image(crop), condition, np.random.default_rng(0))
            write_image(work / crop.relative_to(faces_workspace), made)
        expected = score_perturbed(work, str(checkpoint), [], RunOptions())[CLEAN].probabilities
        assert np.abs(scored[condition.name].probabilities - expected).max() < SAME
        assert np.abs(scored[CLEAN].probabilities - expected).mean() > 1000 * SAME


def test_neither_batches_nor_threads_change_a_score(
    scored: dict[str, PerturbedFaces], faces_workspace: Path, checkpoint: Path
) -> None:
    again = score_perturbed(faces_workspace, str(checkpoint), CONDITIONS, RunOptions(batch_size=7, workers=3))
    for name, faces in scored.items():
        assert np.abs(again[name].probabilities - faces.probabilities).max() < SAME


def test_neither_the_order_nor_the_company_of_conditions_changes_a_score_but_the_seed_does(
    scored: dict[str, PerturbedFaces], faces_workspace: Path, checkpoint: Path
) -> None:
    noise = [Perturbation("noise", 20)]
    alone, reseeded = (
        score_perturbed(faces_workspace, str(checkpoint), noise, RunOptions(), seed=seed)["noise 20"].probabilities
        for seed in (0, 1)
    )
    assert np.abs(alone - scored["noise 20"].probabilities).max() < SAME
    assert np.abs(reseeded - alone).mean() > 1000 * SAME


def test_equal_crops_of_different_frames_get_different_noise(
    faces_workspace: Path, checkpoint: Path, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    crops = sorted((work / "detect-faces" / "crops").glob("*/*.png"))
    for crop in crops[1:]:
        shutil.copy(crops[0], crop)
    found = score_perturbed(work, str(checkpoint), [Perturbation("noise", 20)], RunOptions())
    assert np.ptp(found[CLEAN].probabilities) < SAME
    assert len(np.unique(found["noise 20"].probabilities.round(6))) == len(crops)


def test_progress_counts_faces_to_the_end(faces_workspace: Path, checkpoint: Path) -> None:
    events: list[Progress] = []
    score_perturbed(
        faces_workspace, str(checkpoint), CONDITIONS[:1], RunOptions(batch_size=5), on_progress=events.append
    )
    assert [event.done for event in events] == [0, 2, 5, 7, 8]
    assert {(event.total, event.unit) for event in events} == {(8, "face")}


def test_only_the_faces_of_the_wanted_split_are_scored(imported_faces: Path, checkpoint: Path) -> None:
    found = score_perturbed(imported_faces, str(checkpoint), [], RunOptions(), splits=["val", "test"])
    assert list(found) == [CLEAN] and len(found[CLEAN].probabilities) == 4
    with pytest.raises(ConfigError, match="has no video of the split later"):
        score_perturbed(imported_faces, str(checkpoint), [], RunOptions(), splits=["later"])


def test_a_face_without_a_box_has_no_area(
    imported_faces: Path, checkpoint: Path, scored: dict[str, PerturbedFaces]
) -> None:
    assert np.isnan(score_perturbed(imported_faces, str(checkpoint), [], RunOptions())[CLEAN].areas).any()
    assert (scored[CLEAN].areas > 0).all()


def test_a_lost_crop_is_named(faces_workspace: Path, checkpoint: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    lost = next((work / "detect-faces" / "crops").glob("*/*.png"))
    lost.unlink()
    with pytest.raises(InputError, match=f"{lost.name} is missing or damaged"):
        score_perturbed(work, str(checkpoint), CONDITIONS[:1], RunOptions())


def test_faces_of_another_margin_and_a_missing_workspace_are_refused(
    faces_workspace: Path, checkpoint: Path, detector_file: Path, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    detect_faces(work, DetectConfig(detector=str(detector_file), margin=1.3), RunOptions(overwrite=True))
    with pytest.raises(ManifestError, match="have margin 1.3, the checkpoint needs 1.0"):
        score_perturbed(work, str(checkpoint), [], RunOptions())
    with pytest.raises(ManifestError, match="workspace .* does not exist"):
        score_perturbed(tmp_path / "nowhere", str(checkpoint), [], RunOptions())

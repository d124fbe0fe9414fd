"""`inspect` says what a file holds and where it comes from, at once: it imports no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import inspect, read_manifest
from pipelines.config import DEFAULT_CHECKPOINT, DEFAULT_DETECTOR
from pipelines.errors import ConfigError, ManifestError
from pipelines.records import ScoreRow, VideoRow, rows_to_table
from pipelines.scoring.score_files import write_scores
from pipelines.system.file_digest import file_digest
from pipelines.workspace.manifest import Provenance, write_table
from tests.support import REPOSITORY

PROVENANCE = Provenance("extract-frames", 1, {"frames": 32})
VIDEO = VideoRow("1" * 16, "1" * 64, "a", "a.mp4", label="real")
VIDEOS = [VIDEO, replace(VIDEO, path="copy.mp4"), replace(VIDEO, video_id="2" * 16, label="fake", status="unreadable")]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    folder = tmp_path / "extract-frames"
    write_table(rows_to_table(VIDEOS, VideoRow), folder / "videos.parquet", PROVENANCE)
    return folder


def test_a_manifest_is_counted_and_its_provenance_told(stage: Path) -> None:
    inspection = inspect(stage / "videos.parquet")
    assert inspection.kind == "manifest"
    facts = inspection.facts
    assert (facts["rows"], facts["videos"]) == (3, 2)
    assert facts["by status"] == {"ok": 2, "unreadable": 1}
    assert facts["by label"] == {"fake": 1, "real": 2}
    assert facts["columns"]["rows"] == "int64"
    assert facts["provenance"] == PROVENANCE.to_json()


def test_a_stages_folder_is_inspected_by_its_manifest_or_else_its_videos(stage: Path) -> None:
    assert inspect(str(stage)).path == stage / "videos.parquet"
    write_table(rows_to_table(VIDEOS[:1], VideoRow), stage / "manifest.parquet", PROVENANCE)
    assert inspect(stage).path == stage / "manifest.parquet"


def test_a_checkpoint_tells_its_network_contract_and_digest(checkpoint: Path) -> None:
    inspection = inspect(checkpoint)
    assert inspection.kind == "checkpoint"
    assert inspection.facts["model"] == "multi-attention/paper"
    assert inspection.facts["sha256"] == file_digest(checkpoint)
    assert inspection.facts["bytes"] == checkpoint.stat().st_size
    assert inspection.facts["preprocessing"]["input_size"] == 64


def test_the_default_checkpoint_is_inspected_by_its_name() -> None:
    facts = inspect(DEFAULT_CHECKPOINT).facts
    assert facts["class_names"] == ["real", "fake"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.parquet", r"does not exist; name a manifest \(.parquet\), a checkpoint"),
        ("empty", "holds no manifest; name a stage's folder, a .parquet or a checkpoint"),
        ("notes.txt", "is not a safetensors file"),
        ("foreign.parquet", "is not a readable Parquet file"),
    ],
)
def test_another_file_is_refused_with_what_to_name_instead(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "foreign.parquet").write_text("notes")
    with pytest.raises(ConfigError, match=message):
        inspect(tmp_path / name)


def test_a_manifest_is_read_as_a_table_for_notebooks(stage: Path) -> None:
    table = read_manifest(stage / "videos.parquet")
    assert table["label"].tolist() == ["real", "real", "fake"]
    with pytest.raises(ManifestError, match="does not exist"):
        read_manifest(stage / "manifest.parquet")


def test_inspecting_imports_neither_torch_nor_a_decoder(checkpoint: Path, stage: Path) -> None:
    code = (
        "import sys; from pipelines import inspect; "
        f"inspect({str(checkpoint)!r}); inspect({str(stage)!r}); "
        "print(sorted({'torch', 'timm', 'cv2', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_parquet_of_scores_and_a_detector_are_told_apart_from_manifests(tmp_path: Path) -> None:
    score = ScoreRow("a.mp4", "a", "1" * 64, "ok", 0.5, "fake", 0.5, 1, 1, 1, "m", "2" * 64, "3" * 64, None)
    write_scores(tmp_path / "scores.parquet", [score])
    scores = inspect(tmp_path / "scores.parquet")
    assert (scores.kind, scores.facts["rows"], scores.facts["by verdict"]) == ("scores", 1, {"fake": 1})
    detector = inspect(DEFAULT_DETECTOR)
    assert detector.kind == "detector"
    assert detector.facts["sha256"] == file_digest(detector.path)

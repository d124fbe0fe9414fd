"""The stages in processes of their own: the same files, and a decoder that crashes costs one video."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines import DetectConfig, ExtractConfig, ImportConfig, RunOptions, detect_faces, extract_frames, import_faces
from pipelines.workspace.manifest import read_table
from tests.conftest import Deepfake
from tests.support import (
    REPOSITORY,
    file_contents,
    make_noise,
    stage_content,
    temporary_files,
    write_faces_parquet,
)
from tests.synthetic import write_video

FAULTS = REPOSITORY / "tests" / "faults"
FRAMES = ExtractConfig(frames=2)
ISOLATED = RunOptions(isolate=True, workers=2)


def test_a_decoder_that_crashes_costs_that_video_only_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, work = tmp_path / "videos", tmp_path / "work"
    videos.mkdir()
    for number, name in enumerate(("a", "crash", "z")):
        write_video(videos / f"{name}.mp4", num_frames=3 + number)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(FAULTS), str(REPOSITORY))))
        summary = extract_frames([videos], work, FRAMES, ISOLATED)
    assert {row.video_key: row.status for row in summary.videos} == {"a": "ok", "crash": "failed", "z": "ok"}
    assert "Segmentation fault" in (summary.failures[0].error or "")
    again = extract_frames([videos], work, FRAMES)
    assert again.skipped == 2 and not again.failures
    alone = extract_frames([videos], tmp_path / "alone", FRAMES)
    assert stage_content(again.folder) == stage_content(alone.folder)
    assert temporary_files(work) == []


@pytest.mark.slow
def test_faces_found_in_other_processes_are_the_same(
    faces_workspace: Path, clip: Path, forged_clip: Path, detector_file: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    extract_frames([clip, forged_clip], work, ExtractConfig(frames=4))
    summary = detect_faces(work, DetectConfig(detector=str(detector_file)), ISOLATED)
    expected = faces_workspace / "detect-faces"
    assert stage_content(summary.folder) == stage_content(expected)
    assert file_contents(summary.folder, ".png") == file_contents(expected, ".png")


@pytest.mark.slow
def test_a_picture_that_crashes_a_decoder_costs_its_video_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, picture in enumerate((make_noise(0), b"crash", make_noise(1), make_noise(2))):
        (tmp_path / f"{number}.png").write_bytes(picture)
    source, work = tmp_path / "faces.csv", tmp_path / "work"
    source.write_text("path,label,video\n0.png,real,v0\n1.png,real,v1\n2.png,real,v2\n3.png,real,v2\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(FAULTS), str(REPOSITORY))))
    for skipped in (0, 2):
        summary = import_faces(source, work, ImportConfig(as_is=True), ISOLATED)
        assert [(row.path, row.status, row.rows) for row in summary.videos] == [
            ("v0", "ok", 1), ("v1", "failed", 0), ("v2", "ok", 2)]  # fmt: skip
        assert "Segmentation fault" in (summary.failures[0].error or "") and summary.skipped == skipped
    folders = {
        Path(row["crop_path"]).parent.name for row in read_table(summary.folder / "manifest.parquet").to_pylist()
    }
    assert {path.name for path in (summary.folder / "crops").iterdir() if any(path.iterdir())} == folders


@pytest.mark.isolated
def test_the_commands_work_in_other_processes(
    deepfake: Deepfake, clip: Path, detector_file: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    extracted = deepfake("extract-frames", clip, "-w", work, "--frames", 2, "--timeout", 60, "--max-memory", 4000)
    assert extracted.exit_code == 0, extracted.stderr
    found = deepfake("detect-faces", "-w", work, "--detector", detector_file, "--workers", 1)
    assert found.exit_code == 0, found.stderr
    faces = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}])
    limits = ["--timeout", 60, "--max-memory", 4000]
    imported = deepfake("import-faces", faces, "-w", tmp_path / "new", "--detector", detector_file, *limits)
    assert imported.exit_code == 0, imported.stderr

"""`detect-faces` finds, tracks and aligns every face, and knows a video without a face from one that failed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import DetectConfig, ExtractConfig, RunOptions, detect_faces, extract_frames
from pipelines.errors import CheckpointError, ManifestError, SettingsChangedError
from pipelines.faces.align import TEMPLATE
from pipelines.records import LANDMARK_NAMES, FaceRow, VideoRow, rows_to_table, schema_of, table_to_rows
from pipelines.system.image_files import read_image
from pipelines.workspace.manifest import read_provenance, read_table, write_table
from tests.support import file_contents, make_pool_here, modification_times, stage_content, statuses, temporary_files
from tests.synthetic import write_video


@pytest.fixture
def config(detector_file: Path) -> DetectConfig:
    return DetectConfig(detector=str(detector_file))


@pytest.fixture
def work(faces_workspace: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace, to be changed."""
    return Path(shutil.copytree(faces_workspace, tmp_path / "work"))


def _faces(work: Path) -> list[FaceRow]:
    return table_to_rows(read_table(work / "detect-faces" / "manifest.parquet", FaceRow), FaceRow)


def test_each_frame_of_the_clips_has_one_face_with_box_landmarks_and_crop(faces_workspace: Path) -> None:
    table = read_table(faces_workspace / "detect-faces" / "manifest.parquet")
    assert table.column_names == schema_of(FaceRow).names
    rows = _faces(faces_workspace)
    assert len(rows) == 8 and {(row.face_index, row.track) for row in rows} == {(0, 0)}
    for row in rows:
        assert row.score is not None and row.score > 0.8
        assert row.x0_px is not None and row.x1_px is not None and row.y0_px is not None and row.y1_px is not None
        assert 0 <= row.x0_px < row.x1_px <= 480 and 0 <= row.y0_px < row.y1_px <= 480
        assert 80 < row.x1_px - row.x0_px < 180
        for name in LANDMARK_NAMES:
            assert row.x0_px - 5 < getattr(row, f"{name}_x_px") < row.x1_px + 5
            assert row.y0_px - 5 < getattr(row, f"{name}_y_px") < row.y1_px + 5
        points = [[getattr(row, f"{name}_{axis}_crop_px") for axis in "xy"] for name in LANDMARK_NAMES]
        assert np.abs(np.array(points) - TEMPLATE).max() < 25
        crop = read_image(faces_workspace / "detect-faces" / row.crop_path)
        assert crop.shape == (380, 380, 3)
        assert 0.5 < row.valid_share <= 1
    assert temporary_files(faces_workspace) == []


def test_several_workers_are_as_many_processes_without_isolate_too(
    work: Path, config: DetectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr("pipelines.workspace.items.WorkerPool", make_pool_here(counts))
    before = _faces(work)
    detect_faces(work, config, RunOptions(workers=2, overwrite=True))
    assert counts == [2] and _faces(work) == before


def test_rows_keep_the_frames_times_and_the_order_of_the_videos(faces_workspace: Path) -> None:
    frames = read_table(faces_workspace / "extract-frames" / "manifest.parquet")
    faces = read_table(faces_workspace / "detect-faces" / "manifest.parquet")
    for column in ("video_id", "frame_index", "pts_seconds"):
        assert faces[column].to_pylist() == frames[column].to_pylist()


def test_the_provenance_names_detector_digest_and_the_frames_it_was_made_from(
    faces_workspace: Path, detector_file: Path
) -> None:
    from pipelines.system.file_digest import file_digest

    provenance = read_provenance(faces_workspace / "detect-faces" / "manifest.parquet")
    assert provenance.settings["detector_sha256"] == file_digest(detector_file)
    assert provenance.upstream is not None and provenance.upstream.settings["frames"] == 4


def test_labels_and_identities_of_the_frames_stand_in_the_rows(work: Path, config: DetectConfig) -> None:
    path = work / "extract-frames" / "videos.parquet"
    videos = table_to_rows(read_table(path, VideoRow), VideoRow)
    known = [replace(video, label="real", identity=f"person {n};x") for n, video in enumerate(videos)]
    write_table(rows_to_table(known, VideoRow), path, read_provenance(path))
    summary = detect_faces(work, config)
    assert summary.skipped == len(known)
    assert [(v.label, v.identity) for v in summary.videos] == [(v.label, v.identity) for v in known]


def test_a_workspace_of_before_identities_were_known_stays_valid(work: Path, config: DetectConfig) -> None:
    for stage in ("extract-frames", "detect-faces"):
        path = work / stage / "videos.parquet"
        write_table(read_table(path).drop_columns(["identity"]), path, read_provenance(path))
    crops = sorted((work / "detect-faces" / "crops").rglob("*.png"))
    before = modification_times(crops)
    summary = detect_faces(work, config)
    assert summary.skipped == len(summary.videos) and {video.identity for video in summary.videos} == {None}
    assert len(crops) == 8 and modification_times(crops) == before
    assert read_table(work / "detect-faces" / "videos.parquet").column_names == schema_of(VideoRow).names


def test_finished_videos_are_skipped_without_loading_the_detector(work: Path, config: DetectConfig) -> None:
    content = stage_content(work / "detect-faces")
    before = modification_times((work / "detect-faces" / "parts").iterdir())
    summary = detect_faces(work, config)
    assert summary.skipped == 2
    assert stage_content(work / "detect-faces") == content
    assert modification_times((work / "detect-faces" / "parts").iterdir()) == before


def test_new_videos_add_parts(work: Path, config: DetectConfig, clip: Path, forged_clip: Path, tmp_path: Path) -> None:
    still = write_video(tmp_path / "still.mp4", num_frames=3)
    extract_frames([clip, forged_clip, still], work, ExtractConfig(frames=4))
    summary = detect_faces(work, config)
    assert summary.skipped == 2
    assert statuses(summary.videos) == {"astronaut.mp4": "ok", "astronaut-forged.mp4": "ok", "still.mp4": "no_face"}
    extract_frames([clip], work, ExtractConfig(frames=4))
    assert len(detect_faces(work, config).videos) == 1
    assert len(_faces(work)) == 4


def test_no_face_is_a_result_and_what_failed_before_stays_failed(tmp_path: Path, config: DetectConfig) -> None:
    work = tmp_path / "work"
    (tmp_path / "empty.mp4").write_bytes(b"")
    extract_frames(
        [write_video(tmp_path / "still.mp4", num_frames=3), tmp_path / "empty.mp4"], work, ExtractConfig(frames=2)
    )
    summary = detect_faces(work, config)
    assert statuses(summary.videos) == {"still.mp4": "no_face", "empty.mp4": "unreadable"}
    assert [video.error for video in summary.failures] == [
        "empty.mp4 is empty (0 bytes); copy it again from its source"
    ]
    assert _faces(work) == []
    assert detect_faces(work, config).skipped == 1
    assert temporary_files(work) == []


def test_twelve_faces_in_a_picture_are_twelve_rows_and_tracks(
    tmp_path: Path, config: DetectConfig, crowd_picture: bytes
) -> None:
    (tmp_path / "crowd.png").write_bytes(crowd_picture)
    extract_frames([tmp_path / "crowd.png"], tmp_path / "work")
    (video,) = detect_faces(tmp_path / "work", config).videos
    assert (video.status, video.rows) == ("ok", 12)
    rows = _faces(tmp_path / "work")
    assert [row.face_index for row in rows] == list(range(12))
    assert {row.track for row in rows} == set(range(12))
    assert len({row.crop_path for row in rows}) == 12
    small = detect_faces(tmp_path / "work", replace(config, min_face_px=400), RunOptions(overwrite=True))
    assert small.videos[0].status == "no_face"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margin": 1.3}, "margin was 1.0 and is now 1.3"),
        ({"min_score": 0.9}, "min_score was 0.8 and is now 0.9"),
        ({"max_side": 480}, "max_side was 960 and is now 480"),
        ({"min_face_px": 10}, "min_face_px was 0 and is now 10; network_fits_min_face was not set and is now True"),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    work: Path, config: DetectConfig, changed: dict[str, float], message: str
) -> None:
    content = stage_content(work / "detect-faces")
    with pytest.raises(SettingsChangedError, match=f"{message}; pass --overwrite"):
        detect_faces(work, replace(config, **changed))  # type: ignore[arg-type]
    assert stage_content(work / "detect-faces") == content


def test_changed_settings_of_the_frames_are_refused_by_the_stages_name(
    work: Path, config: DetectConfig, clip: Path
) -> None:
    extract_frames([clip], work, ExtractConfig(frames=2), RunOptions(overwrite=True))
    with pytest.raises(SettingsChangedError, match="extract-frames: frames was 4 and is now 2; pass --overwrite"):
        detect_faces(work, config)
    summary = detect_faces(work, config, RunOptions(overwrite=True))
    assert (summary.skipped, summary.rows) == (0, 2)


def test_a_larger_margin_shows_more(work: Path, config: DetectConfig) -> None:
    before = _faces(work)[0]
    detect_faces(work, replace(config, margin=1.5), RunOptions(overwrite=True))
    after = _faces(work)[0]
    assert (before.right_eye_x_crop_px or 0) - (before.left_eye_x_crop_px or 0) == pytest.approx(
        1.5 * ((after.right_eye_x_crop_px or 0) - (after.left_eye_x_crop_px or 0)), rel=1e-6
    )


def test_the_batch_size_changes_nothing_that_matters(work: Path, config: DetectConfig) -> None:
    before = _faces(work)
    detect_faces(work, config, RunOptions(batch_size=1, overwrite=True))
    for one, other in zip(_faces(work), before, strict=True):
        assert one.crop_path == other.crop_path and one.track == other.track
        for name in ("score", "x0_px", "y1_px", "nose_x_px", "valid_share"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-2)


def test_a_lost_frame_fails_its_video_only_and_is_tried_again(work: Path, config: DetectConfig) -> None:
    shutil.rmtree(work / "detect-faces")
    frame = work / "extract-frames" / read_table(work / "extract-frames" / "manifest.parquet")["path"][0].as_py()
    content = frame.read_bytes()
    frame.unlink()
    summary = detect_faces(work, config)
    (failed,) = summary.failures
    assert failed.status == "failed"
    assert failed.error is not None and "is missing or damaged; make the stage again" in failed.error
    assert len(_faces(work)) == 4
    assert temporary_files(work) == []

    frame.write_bytes(content)
    summary = detect_faces(work, config)
    assert (summary.skipped, summary.failures, len(_faces(work))) == (1, [], 8)


def test_a_damaged_part_is_made_again_with_the_same_result(work: Path, config: DetectConfig) -> None:
    stage = work / "detect-faces"
    content, crops = stage_content(stage), file_contents(stage, ".png")
    part = next((stage / "parts").iterdir())
    part.write_bytes(b"PAR1")
    assert detect_faces(work, config).skipped == 1
    assert stage_content(stage) == content
    assert file_contents(stage, ".png") == crops


def test_a_workspace_without_frames_is_refused_with_the_command_to_run(tmp_path: Path, config: DetectConfig) -> None:
    with pytest.raises(ManifestError, match="workspace .* does not exist; make it with: deepfake extract-frames"):
        detect_faces(tmp_path / "work", config)
    (tmp_path / "work").mkdir()
    with pytest.raises(ManifestError, match="extract-frames has not been run in .*; run: deepfake extract-frames"):
        detect_faces(tmp_path / "work", config)


def test_frames_of_a_stage_that_lost_them_are_asked_for(work: Path, config: DetectConfig) -> None:
    stage = work / "extract-frames"
    shutil.copy(work / "detect-faces" / "manifest.parquet", stage / "manifest.parquet")
    with pytest.raises(ManifestError, match="is a manifest of detect-faces, not of extract-frames"):
        detect_faces(work, config)


def test_a_checkpoint_is_refused_as_a_detector(work: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a RetinaFace detector"):
        detect_faces(work, DetectConfig(detector=str(checkpoint)), RunOptions(overwrite=True))


def test_the_default_detector_finds_the_same_faces(work: Path) -> None:
    before = _faces(work)
    detect_faces(work, options=RunOptions(overwrite=True))
    assert [row.crop_path for row in _faces(work)] == [row.crop_path for row in before]


def test_a_wrong_detector_does_not_cost_the_faces_that_are_there(
    work: Path, config: DetectConfig, checkpoint: Path
) -> None:
    before = stage_content(work / "detect-faces")
    with pytest.raises(CheckpointError, match="is not a RetinaFace detector"):
        detect_faces(work, replace(config, detector=str(checkpoint)), RunOptions(overwrite=True))
    assert stage_content(work / "detect-faces") == before

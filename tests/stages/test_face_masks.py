"""Mask videos of a data set become a mask beside each crop of a fake, showing what the crop shows."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines import (
    DetectConfig,
    ExtractConfig,
    IndexConfig,
    RunOptions,
    Shard,
    detect_faces,
    extract_frames,
    index_dataset,
    inspect,
)
from pipelines.records import LANDMARK_NAMES, FaceRow, VideoRow, rows_to_table, table_to_rows
from pipelines.stages.detect_faces import _Detection
from pipelines.workspace.manifest import read_provenance, read_table, write_table
from pipelines.workspace.run_loop import StageSummary
from tests.support import (
    Image,
    file_contents,
    make_pool_here,
    modification_times,
    stage_content,
    temporary_files,
)
from tests.synthetic import damage_frame, write_video

NUM_FRAMES = 75
SIDE = 480
FAKE = "manipulated_sequences/Deepfakes/c23/videos/071_054.mp4"
REAL = "original_sequences/youtube/c23/videos/071.mp4"
MASK = "manipulated_sequences/Deepfakes/masks/videos/071_054.mp4"
Box = tuple[int, int, int, int]


def region_of(frame_index: int) -> Box:
    """What the mask of a frame marks: a rectangle up to the frame's left edge, like that of no frame nearby."""
    return 0, 30 + 37 * frame_index % 90, 130 + 53 * frame_index % 110, 170 + 29 * frame_index % 70


def _write_masks(path: Path, num_frames: int = NUM_FRAMES, size: tuple[int, int] = (SIDE, SIDE), gop: int = 12) -> Path:
    """H.264, as masks are distributed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "20"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = gop
        for number in range(num_frames):
            image = np.zeros((SIDE, SIDE, 3), np.uint8)
            x0, y0, x1, y1 = region_of(number)
            image[y0:y1, x0:x1] = 255
            resized = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(resized, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def masks_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_masks(tmp_path_factory.mktemp("masks") / "071_054.mp4")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, clip: Path, forged_clip: Path, masks_file: Path, detector_file: Path
) -> Path:
    """A folder with the data set `ffpp` and a workspace `work`, made by index, extract-frames and detect-faces."""
    folder = tmp_path_factory.mktemp("finished")
    root = folder / "ffpp"
    for name, source in ((REAL, clip), (FAKE, forged_clip), (MASK, masks_file)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name)
    for split, pairs in {"train": [["071", "054"]], "val": [], "test": []}.items():
        (root / f"{split}.json").write_text(json.dumps(pairs))
    index_dataset("ffpp", root, folder / "work", IndexConfig())
    extract_frames(None, folder / "work", ExtractConfig(frames=4))
    detect_faces(folder / "work", DetectConfig(detector=str(detector_file)))
    return folder


@pytest.fixture
def config(detector_file: Path) -> DetectConfig:
    return DetectConfig(detector=str(detector_file))


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace, to be changed, with a mask video of its own."""
    work = Path(shutil.copytree(finished / "work", tmp_path / "work"))
    shutil.copy(finished / "ffpp" / MASK, tmp_path / "mask.mp4")
    _change_fake(work, mask=str(tmp_path / "mask.mp4"))
    return work


def _change_fake(work: Path, **changed: str | None) -> None:
    path = work / "extract-frames" / "videos.parquet"
    videos = [replace(row, **changed) if row.label == "fake" else row for row in _read(path, VideoRow)]
    write_table(rows_to_table(videos, VideoRow), path, read_provenance(path))


def _read(path: Path, row_type: type) -> list[Any]:
    return table_to_rows(read_table(path, row_type), row_type)


def _faces(work: Path, label: str | None = None) -> list[FaceRow]:
    label_of = {row.video_id: row.label for row in _read(work / "detect-faces" / "videos.parquet", VideoRow)}
    rows: list[FaceRow] = _read(work / "detect-faces" / "manifest.parquet", FaceRow)
    return [row for row in rows if label is None or label_of[row.video_id] == label]


def _fake(summary: StageSummary) -> VideoRow:
    (fake,) = (video for video in summary.videos if video.label == "fake")
    return fake


def _mask_files(work: Path) -> list[str]:
    stage = work / "detect-faces"
    return sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*_mask.png"))


def _read_grey(path: Path) -> Image:
    """As stored: a file in colour would have three dimensions."""
    return np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED))


def _frame_points(row: FaceRow) -> npt.NDArray[np.float64]:
    """(380, 380, 2): where each crop pixel lies in the frame, by the stored landmarks alone."""

    def points(unit: str) -> npt.NDArray[np.float64]:
        return np.array([[getattr(row, f"{name}_{axis}_{unit}") for axis in "xy"] for name in LANDMARK_NAMES])

    crop = np.hstack([points("crop_px"), np.ones((5, 1))])
    affine, *_ = np.linalg.lstsq(crop, points("px"), rcond=None)
    columns, rows = np.meshgrid(np.arange(380), np.arange(380))
    return np.asarray(np.stack([columns, rows, np.ones_like(rows)], axis=2) @ affine)


def _check(mask: Image, row: FaceRow, region: Box) -> None:
    """White where the crop shows the region, black elsewhere and outside the frame, but for a margin along the edges."""
    x, y = np.moveaxis(_frame_points(row), 2, 0)
    x0, y0, x1, y1 = region
    # pixel k covers k - 0.5 to k + 0.5
    depth = np.minimum.reduce([x - (x0 - 0.5), x1 - 0.5 - x, y - (y0 - 0.5), y1 - 0.5 - y])
    certain = np.abs(depth) > 2.5
    assert mask.shape == (380, 380) and mask.dtype == np.uint8
    assert certain.mean() > 0.9 and 0.02 < (depth > 0).mean() < 0.98
    assert np.array_equal(mask[certain], np.where(depth > 0, 255, 0)[certain])


def test_a_fakes_masks_show_what_its_crops_show_and_a_real_video_has_none(finished: Path) -> None:
    work = finished / "work"
    fakes = _faces(work, "fake")
    assert len({row.frame_index for row in fakes}) == 4
    for row in fakes:
        assert row.mask_path == row.crop_path.replace(".png", "_mask.png")
        _check(_read_grey(work / "detect-faces" / row.mask_path), row, region_of(row.frame_index))
    assert _mask_files(work) == sorted(str(row.mask_path) for row in fakes)
    assert {row.mask_path for row in _faces(work, "real")} == {None}
    videos = _read(work / "detect-faces" / "videos.parquet", VideoRow)
    assert [(row.status, row.error, row.rows) for row in videos] == [("ok", None, 4)] * 2
    assert temporary_files(work) == []


def test_inspect_counts_the_masks(finished: Path) -> None:
    facts = inspect(finished / "work" / "detect-faces").facts
    assert (facts["rows"], facts["masks"]) == (8, 4)


def test_masks_follow_the_margin_of_the_crops(work: Path, config: DetectConfig) -> None:
    detect_faces(work, replace(config, margin=1.4), RunOptions(overwrite=True))
    for row in _faces(work, "fake"):
        _check(_read_grey(work / "detect-faces" / str(row.mask_path)), row, region_of(row.frame_index))


def test_a_mask_video_of_half_the_size_marks_the_same_region(work: Path, config: DetectConfig, tmp_path: Path) -> None:
    _write_masks(tmp_path / "mask.mp4", size=(SIDE // 2, SIDE // 2))
    assert _fake(detect_faces(work, config, RunOptions(overwrite=True))).error is None
    for row in _faces(work, "fake"):
        mask = _read_grey(work / "detect-faces" / str(row.mask_path))
        _check(255 * (mask > 127).astype(np.uint8), row, region_of(row.frame_index))


def test_each_face_of_a_picture_shows_the_mask_in_its_place(
    tmp_path: Path, config: DetectConfig, crowd_picture: bytes
) -> None:
    region = 160, 60, 420, 330
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "crowd.png").write_bytes(crowd_picture)
    image = np.zeros((540, 600), np.uint8)
    image[region[1] : region[3], region[0] : region[2]] = 255
    cv2.imwrite(str(tmp_path / "mask of the crowd.png"), image)
    (tmp_path / "labels.csv").write_text("video,label,mask\ncrowd.png,fake,mask of the crowd.png\n")
    work = tmp_path / "work"
    extract_frames(tmp_path / "clips", work, labels=tmp_path / "labels.csv")
    (video,) = detect_faces(work, config).videos
    assert (video.status, video.error, video.rows) == ("ok", None, 12)
    shares = []
    for row in _faces(work):
        mask = _read_grey(work / "detect-faces" / str(row.mask_path))
        shares.append((mask > 127).mean())
        if 0.05 < shares[-1] < 0.95:
            _check(mask, row, region)
    assert len(shares) == 12 and min(shares) < 0.1 and max(shares) > 0.6


def _remove(path: Path) -> None:
    path.unlink()


def _write_text(path: Path) -> None:
    path.write_text("no video")


def _crop(path: Path) -> None:
    write_video(path, num_frames=NUM_FRAMES, size=(SIDE, 360))


def _shorten(path: Path) -> None:
    _write_masks(path, NUM_FRAMES - 1)


def _lengthen(path: Path) -> None:
    _write_masks(path, NUM_FRAMES + 1)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (_remove, "mask.mp4 does not exist; check the path"),
        (_write_text, "mask.mp4"),
        (_crop, "mask.mp4 has 480 x 360 pixels and the frames 480 x 480, so it is not their mask"),
        (_shorten, "mask.mp4 has 74 frames and the video 75, so it is cut or another video's mask"),
        (_lengthen, "mask.mp4 has 76 frames and the video 75, so it is cut or another video's mask"),
    ],
)
def test_a_mask_video_that_does_not_fit_is_said_and_the_faces_are_kept(
    work: Path,
    finished: Path,
    config: DetectConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    cause: str,
) -> None:
    spoil(tmp_path / "mask.mp4")
    _change_fake(work, error="the file ends early")
    with caplog.at_level(logging.WARNING):
        summary = detect_faces(work, config, RunOptions(overwrite=True))
    fake = _fake(summary)
    assert (fake.status, fake.rows, summary.failures) == ("ok", 4, [])
    assert fake.error is not None and fake.error.startswith(f"the file ends early; faces without masks: {cause}")
    assert fake.error.endswith("; then run detect-faces again")
    assert f"the masks of 1 of 2 videos cannot be used; the first: {fake.video_key}: " in caplog.text
    assert {row.mask_path for row in _faces(work)} == {None} and _mask_files(work) == []
    expected = {name: data for name, data in file_contents(finished / "work", ".png").items() if "_mask" not in name}
    assert file_contents(work, ".png") == expected
    again = detect_faces(work, config)
    assert (again.skipped, again.videos) == (1, summary.videos)


def test_a_mask_frame_that_does_not_decode_costs_its_faces_only(
    work: Path, finished: Path, config: DetectConfig, tmp_path: Path
) -> None:
    whole = _faces(finished / "work", "fake")
    lost = whole[2].frame_index
    _write_masks(tmp_path / "mask.mp4", gop=1)
    damage_frame(tmp_path / "mask.mp4", lost)
    fake = _fake(detect_faces(work, config, RunOptions(overwrite=True)))
    assert fake.error is not None and fake.status == "ok"
    assert fake.error.startswith("1 of 4 faces without masks: frames of mask.mp4 do not decode; copy it again")
    assert [row.mask_path for row in _faces(work, "fake")] == [
        None if row.frame_index == lost else row.mask_path for row in whole
    ]
    assert _mask_files(work) == [row.mask_path for row in whole if row.frame_index != lost]
    assert detect_faces(work, config).skipped == 2


def _is_not_called(self: _Detection) -> None:
    raise AssertionError("the detector is loaded")


def test_masks_are_added_to_faces_that_were_finished_without_and_nothing_is_detected_again(
    work: Path, finished: Path, config: DetectConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mask.mp4").rename(tmp_path / "later.mp4")
    detect_faces(work, config, RunOptions(overwrite=True))
    (tmp_path / "later.mp4").rename(tmp_path / "mask.mp4")
    monkeypatch.setattr(_Detection, "load_detector", _is_not_called)
    crops = sorted((work / "detect-faces" / "crops").rglob("*.png"))
    before = modification_times(crops)
    summary = detect_faces(work, config)
    assert summary.skipped == 1 and [video.error for video in summary.videos] == [None, None]
    assert modification_times(crops) == before
    assert file_contents(work, ".png") == file_contents(finished / "work", ".png")
    assert _faces(work) == _faces(finished / "work")
    assert detect_faces(work, config).skipped == 2


def test_a_workspace_of_before_masks_were_known_is_read_and_gets_them(
    work: Path, finished: Path, config: DetectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = work / "detect-faces"
    for path in (stage / "manifest.parquet", *(stage / "parts").iterdir()):
        write_table(read_table(path).drop_columns(["mask_path"]), path, read_provenance(path), notes={"status": "ok"})
    for name in _mask_files(work):
        (stage / name).unlink()
    assert {row.mask_path for row in _faces(work)} == {None}
    monkeypatch.setattr(_Detection, "load_detector", _is_not_called)
    assert detect_faces(work, config).skipped == 1
    assert _faces(work) == _faces(finished / "work")
    assert file_contents(work, ".png") == file_contents(finished / "work", ".png")


def test_finished_masks_are_kept_even_if_their_video_is_gone(work: Path, config: DetectConfig, tmp_path: Path) -> None:
    (tmp_path / "mask.mp4").unlink()
    content, files = stage_content(work / "detect-faces")["manifest.parquet"], file_contents(work, ".png")
    assert detect_faces(work, config).skipped == 2
    assert stage_content(work / "detect-faces")["manifest.parquet"] == content
    assert file_contents(work, ".png") == files


def test_a_mask_that_is_named_for_a_real_video_is_not_needed(work: Path, config: DetectConfig) -> None:
    _change_fake(work, label="real")
    summary = detect_faces(work, config, RunOptions(overwrite=True))
    assert {video.error for video in summary.videos} == {None} and _mask_files(work) == []


def test_a_content_with_several_rows_takes_the_mask_that_one_of_them_names(
    tmp_path: Path, forged_clip: Path, masks_file: Path, config: DetectConfig
) -> None:
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(forged_clip, tmp_path / name)
    (tmp_path / "list.csv").write_text(f"path,label,mask\na.mp4,fake,\nb.mp4,fake,{masks_file}\n")
    work = tmp_path / "work"
    index_dataset("csv", tmp_path / "list.csv", work, IndexConfig())
    extract_frames(None, work, ExtractConfig(frames=2))
    summary = detect_faces(work, config)
    assert [(video.rows, video.error) for video in summary.videos] == [(2, None), (2, None)]
    rows = _faces(work)
    assert len(rows) == 2 and all(row.mask_path for row in rows)


def test_masks_made_in_shards_and_in_workers_are_those_of_one_run(
    work: Path, finished: Path, config: DetectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(work / "detect-faces")
    for index in (1, 2, 3):
        detect_faces(work, config, RunOptions(shard=Shard(index, 3)))
    detect_faces(work, config)
    assert file_contents(work, ".png") == file_contents(finished / "work", ".png")
    assert _faces(work) == _faces(finished / "work")
    counts: list[int] = []
    monkeypatch.setattr("pipelines.workspace.items.WorkerPool", make_pool_here(counts))
    detect_faces(work, config, RunOptions(workers=2, overwrite=True))
    assert counts == [2] and _faces(work) == _faces(finished / "work")


@pytest.mark.isolated
def test_worker_processes_add_masks_too(work: Path, finished: Path, config: DetectConfig, tmp_path: Path) -> None:
    (tmp_path / "mask.mp4").rename(tmp_path / "later.mp4")
    detect_faces(work, config, RunOptions(overwrite=True))
    (tmp_path / "later.mp4").rename(tmp_path / "mask.mp4")
    assert detect_faces(work, config, RunOptions(workers=1, isolate=True)).skipped == 1
    assert _faces(work) == _faces(finished / "work")
    assert file_contents(work, ".png") == file_contents(finished / "work", ".png")

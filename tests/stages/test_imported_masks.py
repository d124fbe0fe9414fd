"""`import-faces` moves the mask of a picture as it moves the picture, and black over its edge."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import ImportConfig, RunOptions, import_faces
from pipelines.errors import DatasetError
from pipelines.records import FaceRow, VideoRow, table_to_rows
from pipelines.system.image_files import read_image
from pipelines.workspace.manifest import read_table
from tests.support import (
    Image,
    encode_png,
    file_contents,
    make_noise,
    modification_times,
    temporary_files,
    write_faces_parquet,
)

AS_IS = ImportConfig(as_is=True)


def _encode(image: Image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _blocks(height: int = 180, width: int = 150) -> Image:
    """Random blocks of 30 pixels, black along the edges, so that a replicated edge is black too."""
    mask = np.zeros((height, width), np.uint8)
    drawn = np.random.default_rng(3).integers(0, 2, ((height - 60) // 30, (width - 60) // 30), dtype=np.uint8)
    drawn[0, 0], drawn[-1, -1] = 1, 0
    mask[30:-30, 30:-30] = 255 * drawn.repeat(30, axis=0).repeat(30, axis=1)
    return mask


def _in_colour(mask: Image) -> Image:
    return np.stack([mask] * 3, axis=2)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def config(detector_file: Path) -> ImportConfig:
    return ImportConfig(detector=str(detector_file))


def _rows(work: Path) -> list[FaceRow]:
    rows: list[FaceRow] = table_to_rows(read_table(work / "detect-faces" / "manifest.parquet", FaceRow), FaceRow)
    return rows


def _mask(work: Path, row: FaceRow) -> Image:
    assert row.mask_path == row.crop_path.replace(".png", "_mask.png")
    data = (work / "detect-faces" / row.mask_path).read_bytes()
    mask = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    assert mask.shape == (380, 380) and mask.dtype == np.uint8
    return mask


def _mask_files(work: Path) -> list[Path]:
    return sorted((work / "detect-faces").rglob("*_mask.png"))


def test_a_mask_moves_with_a_face_that_is_found_again(
    tmp_path: Path, work: Path, config: ImportConfig, face_pictures: dict[str, list[Image]]
) -> None:
    picture, mask = face_pictures["fake"][0], _blocks()
    # a mark that the picture and the mask share, where it does not hide the face's points
    marked = picture.copy()
    marked[168:, :12] = (255, 0, 255)
    mark = np.zeros((180, 150), np.uint8)
    mark[168:, :12] = 255
    faces = [{"image": encode_png(picture), "mask": _encode(each), "label": "fake"} for each in (mask, 255 - 0 * mask)]
    faces[1]["image"] = encode_png(face_pictures["fake"][1])
    faces.append({"image": encode_png(marked), "mask": _encode(mark), "label": "fake"})
    import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, config)
    rows = _rows(work)
    assert all(row.score is not None for row in rows)

    # white all over: white where the picture is and black beyond it
    white = _mask(work, rows[1])
    assert set(np.unique(white[[0, -1]])) == {0} and (white / 255).mean() == pytest.approx(
        rows[1].valid_share, abs=0.01
    )

    # blocks: each crop pixel comes from the picture's pixel that the landmarks say
    def points(row: FaceRow, unit: str) -> Image:
        names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
        return np.array([[getattr(row, f"{name}_{axis}_{unit}") for axis in "xy"] for name in names])

    affine, *_ = np.linalg.lstsq(
        np.hstack([points(rows[0], "crop_px"), np.ones((5, 1))]), points(rows[0], "px"), rcond=None
    )
    x, y = np.meshgrid(np.arange(380), np.arange(380))
    source = np.rint(np.stack([x, y, np.ones_like(x)], axis=2) @ affine).astype(int)
    inside = (source >= 0).all(axis=2) & (source[..., 0] < 150) & (source[..., 1] < 180)
    expected = np.zeros((380, 380), np.uint8)
    expected[inside] = mask[source[inside][:, 1], source[inside][:, 0]]
    assert 0.02 < (expected > 0).mean() < 0.5
    agree = (_mask(work, rows[0]) > 127) == (expected > 127)
    assert agree.mean() > 0.995

    # and the mark lies in the mask where it lies in the crop; edges are replicated in the crop only
    crop, mask_of_mark = read_image(work / "detect-faces" / rows[2].crop_path).astype(int), _mask(work, rows[2])
    assert (mask_of_mark > 250).sum() > 50
    assert np.abs(crop[mask_of_mark > 250] - (255, 0, 255)).max() < 30
    is_magenta = np.abs(crop - (255, 0, 255)).max(axis=2) < 30
    assert is_magenta.sum() > 1.2 * (mask_of_mark > 250).sum()


def test_a_mask_follows_the_margin_and_a_face_that_is_not_found(
    tmp_path: Path, work: Path, detector_file: Path
) -> None:
    """Noise holds no face; its red channel is the mask, so crop and mask are to be the same picture."""
    mask = _blocks(90, 90)
    source = write_faces_parquet(
        tmp_path / "f.parquet", [{"image": encode_png(_in_colour(mask)), "mask": _encode(mask)}]
    )
    for margin in (1.0, 1.4):
        config = ImportConfig(detector=str(detector_file), margin=margin)
        import_faces(source, work, config, RunOptions(overwrite=True))
        (row,) = _rows(work)
        assert row.score is None
        assert np.array_equal(_mask(work, row), read_image(work / "detect-faces" / row.crop_path)[:, :, 0])
    white = 255 + 0 * mask
    write_faces_parquet(source, [{"image": encode_png(_in_colour(white)), "mask": _encode(white)}])
    import_faces(source, work, config, RunOptions(overwrite=True))
    (row,) = _rows(work)
    assert (read_image(work / "detect-faces" / row.crop_path) == 255).all()
    assert (_mask(work, row) / 255).mean() == pytest.approx(row.valid_share) and row.valid_share < 0.5


def test_as_is_only_resizes_the_mask(tmp_path: Path, work: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (380, 380), dtype=np.uint8)
    half = np.zeros((100, 100), np.uint8)
    half[:, 50:] = 255
    faces = [{"image": make_noise(number, size), "mask": _encode(mask)} for number, (size, mask) in
             enumerate([(380, levels), (100, half)])]  # fmt: skip
    import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, AS_IS)
    first, second = (_mask(work, row) for row in _rows(work))
    assert np.array_equal(first, levels)
    assert (second[:, :185] == 0).all() and (second[:, 195:] == 255).all()


def test_faces_without_a_mask_and_real_ones_have_none(tmp_path: Path, work: Path) -> None:
    mask = _encode(np.full((48, 48), 255, np.uint8))
    faces: list[dict[str, Any]] = [
        {"image": make_noise(0), "label": "fake", "mask": mask},
        {"image": make_noise(1), "label": "fake", "mask": None},
        {"image": make_noise(2), "label": "real", "mask": mask},
        {"image": make_noise(3), "label": "real", "mask": b"broken"},
    ]
    summary = import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, AS_IS)
    assert [(video.status, video.error, video.mask) for video in summary.videos] == [("ok", None, None)] * 4
    assert [row.mask_path is not None for row in _rows(work)] == [True, False, False, False]
    assert len(_mask_files(work)) == 1 and temporary_files(work) == []


@pytest.mark.parametrize(
    "bad", [b"", b"broken", _encode(np.zeros((48, 47), np.uint8)), _encode(np.zeros((96, 96), np.uint8))],
    ids=["empty", "text", "narrower", "larger"],
)  # fmt: skip
def test_a_mask_that_does_not_fit_is_said_and_costs_itself_only(tmp_path: Path, work: Path, bad: bytes) -> None:
    good = _encode(np.full((48, 48), 255, np.uint8))
    masks = [good, bad, good, bad]
    faces: list[dict[str, Any]] = [
        {"image": make_noise(n), "video": "v", "label": "fake", "mask": mask} for n, mask in enumerate(masks)
    ]
    faces.append({"image": b"broken", "video": "v", "label": "fake", "mask": None})
    faces.append({"image": make_noise(9), "video": "w", "label": "fake", "mask": good})
    summary = import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, AS_IS)
    assert [(video.status, video.rows, video.error) for video in summary.videos] == [
        (
            "ok",
            4,
            "1 of 5 pictures are missing or not readable: f.parquet#4; 2 of 5 pictures have a mask that is missing, not "
            "readable or of another size than the picture: f.parquet#1, …; correct the masks and import again",
        ),
        ("ok", 1, None),
    ]
    assert [row.mask_path is not None for row in _rows(work)] == [True, False, True, False, True]
    again = import_faces(tmp_path / "f.parquet", work, AS_IS)
    assert (again.skipped, again.videos) == (2, summary.videos)


def _write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_csv_names_pictures_of_masks_relative_to_itself_and_videos_of_masks_as_before(
    tmp_path: Path, work: Path
) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.zeros((48, 48), np.uint8)
    mask[:24] = 255
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(make_noise(number))
    for number in range(2):
        (tmp_path / "masks" / f"{number}.PNG").write_bytes(_encode(mask if number else 255 - mask))
    named = ["masks/0.PNG", "masks/1.PNG", "", "masks/gone.png", "masks/all.mp4"]
    videos = ["v", "v", "v", "x", "y"]
    rows = [
        {"path": f"{number}.png", "label": "fake", "video": video, "mask": name}
        for number, (video, name) in enumerate(zip(videos, named, strict=True))
    ]
    summary = import_faces(_write_csv(tmp_path / "f.csv", rows), work, AS_IS)
    assert [(video.video_key, video.rows, video.mask) for video in summary.videos] == [
        ("v", 3, None), ("x", 1, None), ("y", 1, "masks/all.mp4"),
    ]  # fmt: skip
    assert [video.error for video in summary.videos] == [
        None,
        "1 of 1 pictures have a mask that is missing, not readable or of another size than the picture: 3.png; correct the "
        "masks and import again",
        None,
    ]
    rows_made = _rows(work)
    assert [row.mask_path is not None for row in rows_made] == [True, True, False, False, False]
    first, second = (_mask(work, row) for row in rows_made[:2])
    assert (first[0, 0], first[-1, -1], second[0, 0], second[-1, -1]) == (0, 255, 255, 0)

    (tmp_path / "masks" / "gone.png").write_bytes(_encode(mask))
    assert [video.error for video in import_faces(tmp_path / "f.csv", work, AS_IS).videos] == [None] * 3
    assert [row.mask_path is not None for row in _rows(work)] == [True, True, False, True, False]


def test_a_text_column_of_a_parquet_file_is_the_path_of_a_video(tmp_path: Path, work: Path) -> None:
    faces = [{"image": make_noise(n), "video": "v", "label": "fake", "mask": "masks/all.mp4"} for n in range(2)]
    (video,) = import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, AS_IS).videos
    assert (video.mask, video.error, video.rows) == ("masks/all.mp4", None, 2)
    assert {row.mask_path for row in _rows(work)} == {None}


def test_a_mask_column_of_another_type_is_refused_with_both_that_fit(tmp_path: Path, work: Path) -> None:
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0), "mask": {"bytes": b""}}])
    message = r"the column 'mask' holds struct<.*>; it must hold text or numbers, or encoded pictures as bytes"
    with pytest.raises(DatasetError, match=message):
        import_faces(source, work, AS_IS)


def test_masks_that_are_added_or_corrected_are_taken_and_parts_without_keep_their_names(
    tmp_path: Path, work: Path
) -> None:
    source = tmp_path / "f.parquet"
    plain: list[dict[str, Any]] = [{"image": make_noise(n), "label": "fake"} for n in range(2)]
    import_faces(write_faces_parquet(source, plain), work, AS_IS)
    content = "".join(hashlib.sha256(make_noise(n)).hexdigest() for n in range(2))
    (part,) = (work / "detect-faces" / "parts").iterdir()
    assert part.stem == hashlib.sha256(content.encode()).hexdigest()[:16]
    assert {row.mask_path for row in _rows(work)} == {None}

    for level in (255, 0):
        mask = _encode(np.full((48, 48), level, np.uint8))
        write_faces_parquet(source, [plain[0] | {"mask": None}, plain[1] | {"mask": mask}])
        assert import_faces(source, work, AS_IS).skipped == 0
        first, second = _rows(work)
        assert first.mask_path is None and (_mask(work, second) == level).all()
    before = modification_times(_mask_files(work))
    assert import_faces(source, work, AS_IS).skipped == 2
    assert modification_times(_mask_files(work)) == before

    write_faces_parquet(source, plain)
    assert import_faces(source, work, AS_IS).skipped == 2
    assert {row.mask_path for row in _rows(work)} == {None}


def test_of_copies_the_one_with_masks_is_taken(tmp_path: Path, work: Path) -> None:
    mask = _encode(np.full((48, 48), 255, np.uint8))
    for order in ("ab", "ba"):
        faces = [
            {"image": make_noise(0), "video": name, "label": "fake", "mask": mask if name == "a" else None}
            for name in order
        ]
        source = write_faces_parquet(tmp_path / "f.parquet", faces)
        summary = import_faces(source, work, AS_IS, RunOptions(overwrite=True))
        assert [video.rows for video in summary.videos] == [1, 1]
        assert [row.mask_path is not None for row in _rows(work)] == [True]


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (3, 2)])
def test_batches_change_no_mask(tmp_path: Path, work: Path, workers: int, batch_size: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (14, 48, 48), dtype=np.uint8)
    faces = [{"image": make_noise(n), "mask": _encode(mask)} for n, mask in enumerate(levels)]
    source = write_faces_parquet(tmp_path / "f.parquet", faces)
    import_faces(source, work, AS_IS, RunOptions(workers=workers, batch_size=batch_size))
    for row, mask in zip(_rows(work), levels, strict=True):
        assert np.array_equal(_mask(work, row), cv2.resize(mask, (380, 380), interpolation=cv2.INTER_LINEAR))


@pytest.mark.isolated
def test_worker_processes_import_masks_too(tmp_path: Path, work: Path) -> None:
    mask = _encode(_blocks(120, 120))
    (tmp_path / "m.png").write_bytes(mask)
    (tmp_path / "a.png").write_bytes(make_noise(0, 120))
    source = _write_csv(tmp_path / "f.csv", [{"path": "a.png", "label": "fake", "mask": "m.png"}])
    import_faces(source, work, AS_IS)
    expected = file_contents(work, ".png")
    shutil.rmtree(work)
    summary = import_faces(source, work, AS_IS, RunOptions(isolate=True, workers=1))
    assert [(type(video), video.error) for video in summary.videos] == [(VideoRow, None)]
    assert len(expected) == 2 and file_contents(work, ".png") == expected

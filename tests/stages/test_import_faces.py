"""`import-faces` makes a detect-faces manifest of pictures that are cropped already."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import ImportConfig, RunOptions, import_faces
from pipelines.data import face_crop_batches
from pipelines.errors import CheckpointError, DatasetError, SettingsChangedError
from pipelines.faces.align import TEMPLATE
from pipelines.records import LANDMARK_NAMES, FaceRow, schema_of, table_to_rows
from pipelines.system.image_files import decode_image, read_image
from pipelines.workspace.manifest import read_provenance, read_table
from tests.support import (
    Image,
    encode_png,
    file_contents,
    make_noise,
    modification_times,
    stage_content,
    temporary_files,
    write_faces_parquet,
)

AS_IS = ImportConfig(as_is=True)
WHITE = encode_png(np.full((60, 50, 3), 255, np.uint8))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def config(detector_file: Path) -> ImportConfig:
    return ImportConfig(detector=str(detector_file))


@pytest.fixture
def faces(face_pictures: dict[str, list[Image]]) -> list[dict[str, Any]]:
    """Two real and two fake faces."""
    return [
        {"image": encode_png(picture), "label": label}
        for label, pictures in face_pictures.items()
        for picture in pictures[:2]
    ]


def _stage(work: Path) -> Path:
    return work / "detect-faces"


def _rows(work: Path) -> list[FaceRow]:
    return table_to_rows(read_table(_stage(work) / "manifest.parquet", FaceRow), FaceRow)


def _crop(work: Path, row: FaceRow) -> Image:
    return read_image(_stage(work) / row.crop_path)


def test_faces_are_found_again_and_aligned_with_replicated_edges(
    tmp_path: Path, work: Path, config: ImportConfig, faces: list[dict[str, Any]]
) -> None:
    summary = import_faces(write_faces_parquet(tmp_path / "faces.parquet", faces), work, config)
    assert [(video.path, video.label, video.status, video.rows) for video in summary.videos] == [
        (f"faces.parquet#{number}", label, "ok", 1) for number, label in enumerate(["real", "real", "fake", "fake"])
    ]
    assert [video.sha256 for video in summary.videos] == [hashlib.sha256(face["image"]).hexdigest() for face in faces]
    table = read_table(_stage(work) / "manifest.parquet")
    assert table.column_names == schema_of(FaceRow).names
    for row, face in zip(_rows(work), faces, strict=True):
        assert row.score is not None and row.score > 0.5
        points = [[getattr(row, f"{name}_{axis}_crop_px") for axis in "xy"] for name in LANDMARK_NAMES]
        assert np.abs(np.array(points) - TEMPLATE).max() < 25
        crop = _crop(work, row)
        assert crop.shape == (380, 380, 3)
        # the picture is smaller than what the template shows: its edges reach on
        assert 0.2 < row.valid_share < 1
        assert (crop.reshape(-1, 3).max(axis=1) == 0).mean() < 0.01
        original = decode_image(face["image"])
        assert original is not None
        assert np.abs(crop[0, 0].astype(int) - original[0, 0]).max() < 40
    assert temporary_files(work) == []


def test_the_manifest_stands_for_detect_faces_and_says_who_made_it(
    tmp_path: Path, work: Path, config: ImportConfig, faces: list[dict[str, Any]]
) -> None:
    import_faces(write_faces_parquet(tmp_path / "faces.parquet", faces), work, config)
    provenance = read_provenance(_stage(work) / "manifest.parquet")
    assert provenance.stage == "import-faces" and provenance.upstream is None
    assert len(provenance.settings["detector_sha256"]) == 64


def test_a_face_that_is_not_found_again_is_kept_where_crops_usually_lie_and_flagged(
    tmp_path: Path, work: Path, config: ImportConfig
) -> None:
    import_faces(write_faces_parquet(tmp_path / "faces.parquet", [{"image": WHITE, "label": "real"}]), work, config)
    (row,) = _rows(work)
    assert row.score is None and row.x0_px is None and row.nose_x_px is None and row.nose_x_crop_px is None
    assert (_crop(work, row) == 255).all()
    assert row.valid_share == pytest.approx(216**2 / 380**2, rel=0.02)


def test_edges_of_an_unfound_face_are_replicated_on_each_side(tmp_path: Path, work: Path, config: ImportConfig) -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:, :30], picture[:, 30:] = (200, 10, 10), (10, 10, 200)
    import_faces(write_faces_parquet(tmp_path / "faces.parquet", [{"image": encode_png(picture)}]), work, config)
    crop = _crop(work, _rows(work)[0])
    for y in (0, 379):
        assert crop[y, 0].tolist() == [200, 10, 10]
        assert crop[y, 379].tolist() == [10, 10, 200]


def test_as_is_only_resizes(tmp_path: Path, work: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (380, 380, 3), dtype=np.uint8)
    source = write_faces_parquet(tmp_path / "faces.parquet", [{"image": encode_png(whole)}, {"image": WHITE}])
    import_faces(source, work, AS_IS)
    rows = _rows(work)
    assert np.array_equal(_crop(work, rows[0]), whole)
    assert _crop(work, rows[1]).shape == (380, 380, 3)
    assert [(row.valid_share, row.score) for row in rows] == [(1.0, None), (1.0, None)]
    assert read_provenance(_stage(work) / "manifest.parquet").settings["detector_sha256"] == ""


def test_a_repeated_video_value_makes_one_video_of_several_faces(tmp_path: Path, work: Path) -> None:
    source = write_faces_parquet(
        tmp_path / "faces.parquet",
        [
            {"image": make_noise(0), "video": "v1", "label": "fake", "split": "val", "original": "v2"},
            {"image": make_noise(1), "video": "v2", "label": "real", "split": "val", "original": None},
            {"image": make_noise(2), "video": "v1", "label": "fake", "split": "val", "original": "v2"},
        ],
    )
    summary = import_faces(source, work, AS_IS)
    assert [(v.path, v.video_key, v.label, v.split, v.original, v.rows) for v in summary.videos] == [
        ("v1", "v1", "fake", "val", "v2", 2),
        ("v2", "v2", "real", "val", None, 1),
    ]
    first, second = summary.videos
    assert second.sha256 == hashlib.sha256(make_noise(1)).hexdigest()
    assert [(row.video_id, row.frame_index, row.track) for row in _rows(work)] == [
        (first.video_id, 0, 0), (first.video_id, 1, 0), (second.video_id, 0, 0),
    ]  # fmt: skip


def test_who_is_seen_in_a_video_is_everybody_that_its_faces_name(tmp_path: Path, work: Path) -> None:
    named = [("v1", "Anna"), ("v2", None), ("v1", None), ("v1", "Ben"), ("v1", "Anna")]
    faces = [
        {"image": make_noise(n), "video": video, "label": "real", "identity": identity}
        for n, (video, identity) in enumerate(named)
    ]
    summary = import_faces(write_faces_parquet(tmp_path / "faces.parquet", faces), work, AS_IS)
    assert [(video.video_key, video.identity) for video in summary.videos] == [("v1", "Anna;Ben"), ("v2", None)]


def test_numbers_name_people_too(tmp_path: Path, work: Path) -> None:
    faces = [{"image": make_noise(n), "label": "real", "identity": n} for n in range(2)]
    summary = import_faces(write_faces_parquet(tmp_path / "faces.parquet", faces), work, AS_IS)
    assert [video.identities for video in summary.videos] == [("0",), ("1",)]


def _write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_csv_names_pictures_relative_to_itself(tmp_path: Path, work: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number} ü.png").write_bytes(make_noise(number))
    rows = [
        {"path": f"pictures/{number} ü.png", "label": label, "video": video, "split": "train", "identity": "Ü"}
        for number, (label, video) in enumerate([("real", "a"), ("fake", ""), ("real", "a")])
    ]
    summary = import_faces(_write_csv(tmp_path / "faces.csv", rows), work, AS_IS)
    assert [(v.path, v.label, v.split, v.identity, v.rows) for v in summary.videos] == [
        ("a", "real", "train", "Ü", 2),
        ("pictures/1 ü.png", "fake", "train", "Ü", 1),
    ]


def test_a_folder_is_labelled_by_its_folders(tmp_path: Path, work: Path) -> None:
    names = ["real/a.png", "fake/b.jpg", "test/fake/c.PNG", "val/real/deep/d.bmp", "real/notes.txt", "other/e.png"]
    for number, name in enumerate(names):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_noise(number))
    summary = import_faces(tmp_path / "faces", work, AS_IS)
    assert {v.path: (v.label, v.split) for v in summary.videos} == {
        "real/a.png": ("real", None),
        "fake/b.jpg": ("fake", None),
        "test/fake/c.PNG": ("fake", "test"),
        "val/real/deep/d.bmp": ("real", "val"),
    }


def _claims_to_be_huge() -> bytes:
    """A PNG whose header claims more pixels than OpenCV takes."""
    data = bytearray(WHITE)
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    return bytes(data)


@pytest.mark.parametrize(
    "broken",
    [b"", b"no picture", WHITE[:40], _claims_to_be_huge()],
    ids=["empty", "text", "cut", "huge"],
)
def test_a_picture_that_does_not_decode_gets_a_row_and_the_others_go_on(
    tmp_path: Path, work: Path, broken: bytes
) -> None:
    source = write_faces_parquet(
        tmp_path / "faces.parquet", [{"image": make_noise(0)}, {"image": broken}, {"image": make_noise(1)}]
    )
    summary = import_faces(source, work, AS_IS)
    assert [video.status for video in summary.videos] == ["ok", "unreadable", "ok"]
    (failed,) = summary.failures
    assert failed.error is not None and failed.error.startswith("faces.parquet#1 is ")
    assert len(_rows(work)) == 2


def test_missing_pictures_are_told_apart_whatever_their_labels(tmp_path: Path, work: Path) -> None:
    (tmp_path / "here.png").write_bytes(make_noise(0))
    rows = [{"path": "gone1.png", "label": "real"}, {"path": "gone2.png", "label": "fake"},
            {"path": "here.png", "label": "real"}]  # fmt: skip
    summary = import_faces(_write_csv(tmp_path / "faces.csv", rows), work, AS_IS)
    assert [(video.path, video.error) for video in summary.failures] == [
        ("gone1.png", "gone1.png is missing or empty; check the path"),
        ("gone2.png", "gone2.png is missing or empty; check the path"),
    ]
    assert len(_rows(work)) == 1


@pytest.mark.parametrize("broken", [b"broken", b""])
def test_a_picture_that_does_not_decode_costs_itself_and_not_its_video(
    tmp_path: Path, work: Path, broken: bytes
) -> None:
    faces: list[dict[str, object]] = [
        {"image": broken if n in (1, 3) else make_noise(n), "video": "whole" if n > 3 else "torn"} for n in range(6)
    ]
    summary = import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, AS_IS)
    assert [(video.path, video.status, video.rows, video.error) for video in summary.videos] == [
        ("torn", "ok", 2, "2 of 4 pictures are missing or not readable: f.parquet#1, …"),
        ("whole", "ok", 2, None),
    ]
    assert not summary.failures
    assert [row.frame_index for row in _rows(work)] == [0, 2, 0, 1]
    again = import_faces(tmp_path / "f.parquet", work, AS_IS)
    assert again.skipped == 2 and again.videos == summary.videos


def test_a_collection_of_broken_pictures_only_still_gives_rows(tmp_path: Path, work: Path) -> None:
    source = write_faces_parquet(tmp_path / "faces.parquet", [{"image": b"broken"}, {"image": b""}])
    summary = import_faces(source, work, AS_IS)
    assert [video.status for video in summary.videos] == ["unreadable", "unreadable"]
    assert _rows(work) == []


def test_a_repaired_picture_is_taken_by_the_next_run(tmp_path: Path, work: Path) -> None:
    rows = [{"path": f"{number}.png", "label": "real"} for number in range(2)]
    source = _write_csv(tmp_path / "faces.csv", rows)
    (tmp_path / "0.png").write_bytes(make_noise(0))
    (tmp_path / "1.png").write_bytes(make_noise(1)[:100])
    assert len(import_faces(source, work, AS_IS).failures) == 1
    (tmp_path / "1.png").write_bytes(make_noise(1))
    summary = import_faces(source, work, AS_IS)
    assert summary.failures == [] and len(_rows(work)) == 2


def test_copies_are_aligned_once_and_get_a_row_each(tmp_path: Path, work: Path) -> None:
    source = write_faces_parquet(
        tmp_path / "faces.parquet", [{"image": make_noise(0), "video": name, "label": "real"} for name in ("a", "b")]
    )
    summary = import_faces(source, work, AS_IS)
    assert [(video.path, video.rows) for video in summary.videos] == [("a", 1), ("b", 1)]
    assert len(_rows(work)) == 1


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        (
            [{"image": WHITE, "video": "a", "label": "real"}, {"image": WHITE, "video": "b", "label": "fake"}],
            "a and b are the same picture, labelled real and fake; correct one",
        ),
        (
            [
                {"image": make_noise(0), "video": "a", "label": "real"},
                {"image": make_noise(1), "video": "a", "label": "fake"},
            ],
            "the faces of a differ in label",
        ),
        ([{"image": WHITE, "label": "maybe"}], "#0: unknown label 'maybe'; use real or fake"),
        ([{"image": WHITE, "label": "real", "split": "dev"}], "#0: unknown split 'dev'"),
        ([{"picture": WHITE}], "has no column 'image' or 'image_jpeg' with encoded pictures"),
        ([{"image": "text"}], "the column 'image' holds string; it must hold encoded pictures as bytes"),
        ([{"image": {"bytes": WHITE}}], "the column 'image' holds struct<.*>; it must hold"),
    ],
)
def test_a_parquet_that_does_not_fit_is_refused(
    tmp_path: Path, work: Path, faces: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        import_faces(write_faces_parquet(tmp_path / "faces.parquet", faces), work, AS_IS)


def _empty_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "faces.parquet")
    return folder / "faces.parquet"


def _file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: folder / "missing.parquet",
            "does not exist; pass a Parquet file, a CSV or a folder with real/",
        ),
        (lambda folder: folder, "holds no pictures under real/ or fake/; sort them so, or pass a CSV with path,label"),
        (lambda folder: _file(folder, "faces.zip", b"PK"), "is not a collection of faces; pass a .parquet, a .csv or"),
        (lambda folder: _file(folder, "faces.parquet", b"PAR1"), "is not a readable Parquet file"),
        (lambda folder: _file(folder, "faces.csv", b"\xff\xfe\x81"), "is not a readable CSV file"),
        (lambda folder: _file(folder, "faces.csv", b"path\na.png\n"), "lacks the column 'label'; it needs path,label"),
        (lambda folder: _file(folder, "faces.csv", b"label,path\nreal\n"), "line 2 names no path"),
        (lambda folder: _file(folder, "faces.csv", b"path,label\n"), "the source holds no pictures"),
        (_empty_parquet, "the source holds no pictures"),
    ],
)
def test_a_source_of_no_known_kind_is_refused_with_what_to_pass(
    tmp_path: Path, work: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        import_faces(make(tmp_path), work, AS_IS)


def test_a_part_holds_whole_videos_and_at_most_a_thousand_faces(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert face_crop_batches.FACES_PER_PART == 1000
    monkeypatch.setattr(face_crop_batches, "FACES_PER_PART", 3)
    sizes = {"a": 2, "b": 1, "c": 2, "d": 2, "e": 1}
    faces = [
        {"image": make_noise(n), "video": name} for n, (name, size) in enumerate(sizes.items()) for _ in range(size)
    ]
    import_faces(write_faces_parquet(tmp_path / "f.parquet", faces), work, AS_IS)
    parts = [read_table(path)["video_id"].to_pylist() for path in (_stage(work) / "parts").iterdir()]
    assert sorted(map(len, parts)) == [2, 3, 3]
    assert sum(len(set(part)) for part in parts) == len(sizes)


def test_finished_parts_are_skipped_and_new_pictures_make_new_ones(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_crop_batches, "FACES_PER_PART", 2)
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(number)} for number in range(4)])
    assert import_faces(source, work, AS_IS).skipped == 0
    parts = modification_times((_stage(work) / "parts").iterdir())
    assert len(parts) == 2
    write_faces_parquet(source, [{"image": make_noise(number)} for number in range(5)])
    assert import_faces(source, work, AS_IS).skipped == 4
    after = modification_times((_stage(work) / "parts").iterdir())
    assert parts.items() <= after.items() and len(after) == 3
    assert len(_rows(work)) == 5


def test_an_interrupted_import_goes_on_and_gives_the_same(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_crop_batches, "FACES_PER_PART", 2)
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(number)} for number in range(6)])
    import_faces(source, tmp_path / "undisturbed", AS_IS)

    def interrupt(event: Any) -> None:
        if event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_faces(source, work, AS_IS, on_progress=interrupt)
    assert import_faces(source, work, AS_IS).skipped == 2
    assert stage_content(_stage(work)) == stage_content(_stage(tmp_path / "undisturbed"))
    assert file_contents(_stage(work), ".png") == file_contents(_stage(tmp_path / "undisturbed"), ".png")


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (3, 8)])
def test_workers_and_batches_change_nothing(tmp_path: Path, work: Path, workers: int, batch_size: int) -> None:
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(number)} for number in range(6)])
    import_faces(source, tmp_path / "reference", AS_IS)
    import_faces(source, work, AS_IS, RunOptions(workers=workers, batch_size=batch_size))
    assert stage_content(_stage(work)) == stage_content(_stage(tmp_path / "reference"))


def test_a_changed_setting_is_refused_by_name(tmp_path: Path, work: Path, config: ImportConfig) -> None:
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}])
    import_faces(source, work, AS_IS)
    with pytest.raises(SettingsChangedError, match="as_is was True and is now False"):
        import_faces(source, work, config)
    assert import_faces(source, work, config, RunOptions(overwrite=True)).skipped == 0


def test_faces_of_another_stage_are_not_mixed_with_imported_ones(
    tmp_path: Path, faces_workspace: Path, work: Path
) -> None:
    import shutil

    shutil.copytree(faces_workspace, work)
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}])
    with pytest.raises(SettingsChangedError, match="stage was detect-faces and is now import-faces"):
        import_faces(source, work, AS_IS)


def test_a_checkpoint_is_refused_as_a_detector(tmp_path: Path, work: Path, checkpoint: Path) -> None:
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}])
    with pytest.raises(CheckpointError, match="is not a RetinaFace detector"):
        import_faces(source, work, ImportConfig(detector=str(checkpoint)))


def test_jpeg_pictures_may_stand_in_a_column_of_their_own(tmp_path: Path, work: Path) -> None:
    jpeg = cv2.imencode(".jpg", np.full((40, 40, 3), 90, np.uint8))[1].tobytes()
    summary = import_faces(write_faces_parquet(tmp_path / "f.parquet", [{"image_jpeg": jpeg}]), work, AS_IS)
    assert summary.videos[0].sha256 == hashlib.sha256(jpeg).hexdigest()


@pytest.mark.parametrize("label", [0, 1])
def test_a_number_as_label_is_refused_not_dropped(label: int, tmp_path: Path, work: Path) -> None:
    pq.write_table(pa.table({"image": [WHITE], "label": [label]}), tmp_path / "faces.parquet")
    with pytest.raises(DatasetError, match=f"unknown label '{label}'; use real or fake"):
        import_faces(tmp_path / "faces.parquet", work, AS_IS)

"""What a manifest names lies in the workspace, whoever wrote it: nothing else is read or written."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import RunOptions, extract_frames
from pipelines.config import ExtractConfig, Shard
from pipelines.errors import ManifestError
from pipelines.records import FaceRow, FrameRow, VideoRow, rows_to_table, table_to_rows
from pipelines.workspace.manifest import Provenance, read_table, write_table
from tests.conftest import Deepfake
from tests.strangers.tampering import change_cell, error_line
from tests.support import file_contents
from tests.synthetic import write_video

FRAMES, FACES = "extract-frames/manifest.parquet", "detect-faces/manifest.parquet"
STRAYS = ["/etc/hostname", "../../outside.png", "crops/../../../outside.png", "crops/./a.png", "..", "a//b.png", "",
          "C:a.png", "C:\\a.png", "\\\\server\\share.png", "crops\\..\\outside.png", "a\0.png", "a\n.png"]  # fmt: skip
VIDEO = VideoRow("0" * 16, "0" * 64, "a", "/anywhere/a.mp4", mask="../a.mp4")
FRAME = FrameRow("0" * 16, 0, 0, 1, 25, 0.0, 64, 48, 0, "frames/0/0.png")
FACE = FaceRow(**{field.name: 0.5 for field in fields(FaceRow)}
               | {"video_id": "0" * 16, "frame_index": 0, "face_index": 0, "track": 0, "crop_path": "crops/0.png",
                  "mask_path": None})  # fmt: skip
READERS = {
    "detect-faces": (FRAMES, "path", ["detect-faces", "-w", "WORK", "--overwrite"]),
    "predict": (FACES, "crop_path", ["predict", "--faces", "WORK", "--checkpoint", "CHECKPOINT"]),
    "train": (FACES, "crop_path", ["train", "-w", "SIDES", "-q", "--backbone", "mobilenetv2_imagenet"]),
    "preview": (FACES, "crop_path", ["train", "-w", "WORK", "--preview-augmentations", "OUT.png"]),
    "calibrate": (FACES, "crop_path", ["calibrate", "WORK", "--checkpoint", "CHECKPOINT", "--split", "all", "-o",
                                       "OUT.safetensors"]),
    "evaluate": (FACES, "crop_path", ["evaluate", "WORK", "--checkpoint", "CHECKPOINT", "--split", "all"]),
    "perturb": (FACES, "crop_path", ["evaluate", "WORK", "--checkpoint", "CHECKPOINT", "--split", "all", "--perturb",
                                     "faces", "--perturbations", "jpeg"]),
}  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, faces_workspace: Path) -> Path:
    """A workspace whose videos are labelled, with a picture and a folder next to it."""
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    for stage in ("extract-frames", "detect-faces"):
        for row, label in enumerate(("fake", "real")):
            change_cell(work / stage / "videos.parquet", "label", label, row=row)
    shutil.copy(next(work.rglob("*.png")), tmp_path / "outside.png")
    return work


def _run(deepfake: Deepfake, name: str, work: Path, checkpoint: Path) -> str:
    values = {"WORK": work, "SIDES": work, "CHECKPOINT": checkpoint}
    arguments = [values.get(argument, argument) for argument in READERS[name][2]]
    return error_line(deepfake(*(str(argument).replace("OUT", str(work / "out")) for argument in arguments)))


@pytest.mark.parametrize("reader", READERS)
def test_a_path_that_leads_out_of_the_workspace_is_refused_by_every_reader(
    deepfake: Deepfake, work: Path, imported_faces: Path, checkpoint: Path, reader: str
) -> None:
    manifest, column, arguments = READERS[reader]
    if "SIDES" in arguments:
        shutil.rmtree(work)
        shutil.copytree(imported_faces, work)
    change_cell(work / manifest, column, "../../outside.png", row=2)
    before = file_contents(work.parent, ".png", ".parquet")
    line = _run(deepfake, reader, work, checkpoint)
    assert f"{work / manifest} names '../../outside.png' in row 3, which is not inside its folder; do not use" in line
    assert file_contents(work.parent, ".png", ".parquet") == before


def _write(path: Path, rows: Sequence[Any]) -> Path:
    write_table(rows_to_table(rows, type(rows[0])), path, Provenance("stage", 1, {}))
    return path


@pytest.mark.parametrize("name", STRAYS)
@pytest.mark.parametrize(("row", "column"), [(FRAME, "path"), (FACE, "crop_path"), (FACE, "mask_path")])
def test_whatever_way_a_path_leads_elsewhere_it_is_refused(tmp_path: Path, row: Any, column: str, name: str) -> None:
    path = _write(tmp_path / "manifest.parquet", [row, replace(row, **{column: name})])
    with pytest.raises(ManifestError, match=re.escape(f"names {name!r} in row 2, which is not inside its folder")):
        read_table(path, type(row))


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "a/b", "..", "C:x", "a\\b", "\0"])
@pytest.mark.parametrize(
    ("row", "column"), [(VIDEO, "video_id"), (VIDEO, "sha256"), (FRAME, "video_id"), (FACE, "video_id")]
)
def test_what_files_are_named_after_is_a_plain_name(tmp_path: Path, row: Any, column: str, name: str) -> None:
    path = _write(tmp_path / "videos.parquet", [row, replace(row, **{column: name})])
    with pytest.raises(ManifestError, match=re.escape(f"names {name!r} in row 2")):
        read_table(path, type(row))


@pytest.mark.parametrize("name", ["crops/a..b/c.png", "..crops/.a.png", "crops/é ü/'x=1.png", "a.png"])
def test_a_strange_name_that_stays_inside_is_taken(tmp_path: Path, name: str) -> None:
    rows = [replace(FACE, crop_path=name), replace(FACE, mask_path=name)]
    path = _write(tmp_path / "manifest.parquet", rows)
    assert table_to_rows(read_table(path, FaceRow), FaceRow) == rows


def test_details_are_named_after_a_plain_name_too(deepfake: Deepfake, work: Path, checkpoint: Path) -> None:
    change_cell(work / "detect-faces/videos.parquet", "sha256", "../../outside")
    details = work.parent / "details" / "of" / "today"
    line = error_line(deepfake("predict", "--faces", work, "--checkpoint", checkpoint, "--details", details))
    assert "names '../../outside' in row 1, which is not inside its folder" in line
    assert sorted(path.name for path in work.parent.iterdir()) == ["outside.png", "work"]


@pytest.mark.parametrize("linked", ["crops", "video", "picture"])
def test_a_link_out_of_the_stage_is_refused(deepfake: Deepfake, work: Path, checkpoint: Path, linked: str) -> None:
    crops = work / "detect-faces" / "crops"
    video = next(iter(sorted(crops.iterdir())))
    place = {"crops": crops, "video": video, "picture": next(iter(sorted(video.iterdir())))}[linked]
    place.rename(work.parent / "elsewhere")
    place.symlink_to(work.parent / "elsewhere")
    line = _run(deepfake, "predict", work, checkpoint)
    assert f"{place} is a link" in line and ("put the folder itself there" in line or "put a copy" in line)
    assert ("in row " in line and str(work / FACES) in line) or linked == "picture"


def test_a_link_that_stays_inside_and_a_stage_that_is_a_link_itself_are_taken(
    deepfake: Deepfake, work: Path, checkpoint: Path
) -> None:
    stage = work / "detect-faces"
    (stage / "crops").rename(stage / "kept")
    (stage / "crops").symlink_to(stage / "kept")
    stage.rename(work.parent / "disk")
    stage.symlink_to(work.parent / "disk")
    (work.parent / "disk" / "crops").unlink()
    (work.parent / "disk" / "crops").symlink_to("kept")
    assert deepfake("predict", "--faces", work, "--checkpoint", checkpoint).exit_code == 0


def test_a_part_of_a_shard_that_names_another_folder_is_not_taken_over(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / f"{n}.mp4", num_frames=3 + n, size=(64, 48)) for n in range(3)]
    work = tmp_path / "work"
    for index in (1, 2):
        extract_frames(videos, work, ExtractConfig(frames=1), RunOptions(shard=Shard(index, 2)))
    stage = work / "extract-frames"
    part = next(iter(sorted((stage / "parts").iterdir())))
    whole = part.read_bytes()
    change_cell(part, "path", "../../../outside.png")
    with pytest.raises(ManifestError, match="names '../../../outside.png' in row 1, which is not inside its folder"):
        extract_frames(videos, work, ExtractConfig(frames=1))
    assert not (stage / "manifest.parquet").exists() and not (stage / "videos.parquet").exists()
    part.write_bytes(whole)
    assert len(extract_frames(videos, work, ExtractConfig(frames=1)).videos) == 3

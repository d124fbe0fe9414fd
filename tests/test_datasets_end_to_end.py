"""From four data sets as they are downloaded to a result table, by the commands alone; planted leaks stop the check."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines import read_manifest
from tests.conftest import Deepfake

Image = npt.NDArray[np.uint8]
Clips = dict[str, bytes]


@pytest.fixture
def clips(clip: Path, forged_clip: Path) -> Clips:
    """The bytes of a genuine and of a forged video."""
    return {"real": clip.read_bytes(), "fake": forged_clip.read_bytes()}


def _write(path: Path, clip: bytes) -> None:
    """A video like another, of its own content: an MP4 may end in a box that players skip."""
    name = path.as_posix().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clip + struct.pack(">I", 8 + len(name)) + b"free" + name)


def _write_all(root: Path, names: Iterable[str], clip: bytes) -> None:
    for name in names:
        _write(root / name, clip)


def _make_ffpp(root: Path, clips: Clips) -> None:
    pairs = {"train": [["001", "000"]], "val": [["003", "002"]], "test": [["005", "004"]]}
    for split, pair in pairs.items():
        (root / f"{split}.json").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.json").write_text(json.dumps(pair))
    reals = [f"original_sequences/youtube/c23/videos/{number:03d}.mp4" for number in range(6)]
    stems = ("001_000", "000_001", "003_002", "005_004", "004_005")
    fakes = [f"manipulated_sequences/{m}/c23/videos/{s}.mp4" for m in ("Deepfakes", "FaceSwap") for s in stems]
    _write_all(root, reals, clips["real"])
    _write_all(root, fakes, clips["fake"])


def _make_celebdf(root: Path, clips: Clips) -> None:
    reals = ["Celeb-real/id0_0000.mp4", "Celeb-real/id1_0000.mp4", "YouTube-real/00000.mp4", "YouTube-real/00001.mp4"]
    fakes = ["Celeb-synthesis/id0_id1_0000.mp4", "Celeb-synthesis/id2_id3_0000.mp4", "Celeb-synthesis/id1_id0_0000.mp4"]
    _write_all(root, reals, clips["real"])
    _write_all(root, fakes, clips["fake"])
    listed = ["1 YouTube-real/00000.mp4", "1 YouTube-real/00001.mp4", "0 Celeb-synthesis/id2_id3_0000.mp4"]
    (root / "List_of_testing_videos.txt").write_text("\n".join(listed))


def _make_dfdc(root: Path, clips: Clips) -> None:
    for part in range(2):
        folder = root / f"dfdc_train_part_{part}"
        metadata = {f"real{part}.mp4": {"label": "REAL", "split": "train"}}
        metadata |= {f"fake{part}.mp4": {"label": "FAKE", "split": "train", "original": f"real{part}.mp4"}}
        _write(folder / f"real{part}.mp4", clips["real"])
        _write(folder / f"fake{part}.mp4", clips["fake"])
        (folder / "metadata.json").write_text(json.dumps(metadata))
    _write(root / "test" / "a.mp4", clips["real"])
    _write(root / "test" / "b.mp4", clips["fake"])
    (root / "test" / "labels.csv").write_text("filename,label\na.mp4,0\nb.mp4,1\n")


def _make_wilddeepfake(root: Path, pictures: dict[str, list[Image]]) -> None:
    for label, images in pictures.items():
        for split, chosen in (("train", images[:2]), ("test", images[2:])):
            for number, image in enumerate(chosen):
                path = root / f"{label}_{split}" / "0" / label / str(number) / "0.png"
                path.parent.mkdir(parents=True)
                cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


@pytest.mark.parametrize(
    ("name", "make", "num_videos", "num_test", "num_parts"),
    [
        ("ffpp", _make_ffpp, 16, 6, 2),
        ("celebdf-v2", _make_celebdf, 7, 3, 0),
        ("dfdc", _make_dfdc, 6, 2, 0),
    ],
)
def test_a_data_set_of_videos_becomes_a_result_table(
    name: str,
    make: Callable[[Path, Clips], None],
    num_videos: int,
    num_test: int,
    num_parts: int,
    clips: Clips,
    tmp_path: Path,
    deepfake: Deepfake,
) -> None:
    make(tmp_path / "data", clips)
    work, scores = tmp_path / "work", tmp_path / "scores.csv"
    index = work / "index" / "videos.parquet"
    assert deepfake("index", name, tmp_path / "data", "-w", work).exit_code == 0
    assert deepfake("extract-frames", "-w", work, "--frames", 2, "--split", "test").exit_code == 0
    assert deepfake("detect-faces", "-w", work).exit_code == 0
    assert deepfake("predict", "--faces", work, "-o", scores).exit_code == 0
    result = deepfake("evaluate", scores, "--labels", index, "-o", tmp_path / "scores.json", "--bootstrap", 50)
    assert result.exit_code == 0, result.output
    assert deepfake("evaluate", work, "-o", tmp_path / "work.json", "--bootstrap", 50).exit_code == 0

    listed, faces = read_manifest(index), read_manifest(work / "detect-faces" / "videos.parquet")
    assert len(listed) == num_videos and len(faces) == num_test
    columns = [
        "video_key",
        "label",
        "split",
        "original",
        "identity",
        "group",
        "dataset",
        "method",
        "compression",
        "mask",
    ]
    in_test = listed[listed.split == "test"]
    assert in_test[columns].reset_index(drop=True).equals(faces[columns].reset_index(drop=True))

    by_scores, by_work = (json.loads((tmp_path / f"{kind}.json").read_text()) for kind in ("scores", "work"))
    assert by_scores["split"] == by_work["split"] == "test"
    assert by_scores["video.auc"] == by_work["video.auc"] == 1.0
    assert by_scores["coverage"] == 1.0
    assert "frame.auc" not in by_scores and by_work["frame.auc"] == 1.0
    assert by_work["frames"] == 2 * num_test
    assert len(by_work["parts"]) == num_parts
    assert "1.000" in result.stdout


def test_a_data_set_of_cropped_faces_becomes_a_result_table(
    face_pictures: dict[str, list[Image]], tmp_path: Path, deepfake: Deepfake
) -> None:
    _make_wilddeepfake(tmp_path / "data", face_pictures)
    work = tmp_path / "work"
    index = work / "index" / "videos.parquet"
    assert deepfake("index", "wilddeepfake", tmp_path / "data", "-w", work).exit_code == 0
    refused = deepfake("extract-frames", "-w", work)
    assert refused.exit_code == 2 and "import-faces" in refused.stderr
    assert deepfake("import-faces", index, "-w", work).exit_code == 0
    assert deepfake("predict", "--faces", work, "-o", tmp_path / "scores.csv").exit_code == 0
    result = deepfake("evaluate", tmp_path / "scores.csv", "--labels", index, "-o", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["videos.real"], report["videos.fake"], report["split"]) == (2, 2, "test")
    faces = read_manifest(work / "detect-faces" / "videos.parquet")
    assert set(faces.split) == {"train", "test"} and set(faces.dataset) == {"wilddeepfake"}


def test_a_planted_leak_fails_the_check_and_can_be_dropped(clips: Clips, tmp_path: Path, deepfake: Deepfake) -> None:
    root = tmp_path / "data"
    _make_celebdf(root, clips)
    leaked = root / "Celeb-real" / "id7_0000.mp4"
    leaked.write_bytes((root / "YouTube-real" / "00001.mp4").read_bytes())
    clean = deepfake("index", "celebdf-v2", root, "-w", tmp_path / "before")
    assert clean.exit_code == 0
    found = deepfake("index", "celebdf-v2", root, "-w", tmp_path / "work", "--check")
    assert found.exit_code == 4
    assert "celebdf-v2/Celeb-real/id7_0000" in found.output
    cured = deepfake("index", "celebdf-v2", root, "-w", tmp_path / "cured", "--check", "--drop-leaks")
    assert cured.exit_code == 0, cured.output
    listed = read_manifest(tmp_path / "cured" / "index" / "videos.parquet").set_index("video_key")
    assert listed.split.isna()["celebdf-v2/Celeb-real/id7_0000"]
    assert listed.split["celebdf-v2/YouTube-real/00001"] == "test"

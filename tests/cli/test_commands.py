"""Commands as users type them: rows on stdout, everything else on stderr, and bad inputs stop nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.records import ScoreRow, VideoRow, schema_of, table_to_rows
from pipelines.scoring.score_files import read_scores
from pipelines.workspace.manifest import read_table
from tests.conftest import Deepfake
from tests.support import encode_png, make_noise, temporary_files, write_faces_parquet
from tests.synthetic import write_video

UHD_8K = (7680, 4320)


@dataclass(frozen=True)
class Expected:
    """What becomes of an input, and what the message must name."""

    status: str
    error: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


EXPECTED = {
    "good clip.mp4": Expected("ok", facts={"frames": 4, "faces": 4, "tracks": 1}),
    "text.mp4": Expected("unreadable", ("text.mp4 is a text file", "pass a video file")),
    "empty.mp4": Expected("unreadable", ("empty.mp4 is empty (0 bytes)", "copy it again from its source")),
    "cut.mp4": Expected("unreadable", ("cut.mp4 has no index", "it was probably cut off", "copy it again")),
    "audio only.mp4": Expected("unreadable", ("has no video stream", "pass a video file")),
    "noise.mp4": Expected("unreadable", ("does not open as a video", "copy it again or convert it")),
    "broken.png": Expected("unreadable", ("the image ends early", "copy it again from its source")),
    "one frame.mp4": Expected("no_face", facts={"frames": 1, "faces": 0, "tracks": 0}),
    "no face.mp4": Expected("no_face", facts={"frames": 4}),
    "new\nline.mp4": Expected("no_face"),
    "ünïcødé-視頻.mp4": Expected("no_face"),
    "-leading-dash.mp4": Expected("no_face"),
    "8k.png": Expected("ok", facts={"frames": 1, "faces": 1, "tracks": 1}),
    "twelve.png": Expected("ok", facts={"frames": 1, "faces": 12, "tracks": 12}),
}
IGNORED = ("notes.txt", "table.csv")


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, clip: Path, crowd_picture: bytes, face_pictures: dict[str, Any]
) -> Path:
    """A folder with everything of `EXPECTED`, and two files that are no inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(clip, folder / "good clip.mp4")
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[:1000])
    write_video(folder / "audio only.mp4", audio_only=True)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "broken.png").write_bytes(make_noise(0)[:60])
    for number, name in enumerate(
        ("one frame.mp4", "no face.mp4", "new\nline.mp4", "ünïcødé-視頻.mp4", "-leading-dash.mp4")
    ):
        write_video(folder / "new.mp4", num_frames=1 + 4 * number).rename(folder / name)
    large = np.full((UHD_8K[1], UHD_8K[0], 3), 120, np.uint8)
    large[1000:3160, 2000:3800] = cv2.resize(face_pictures["real"][0], (1800, 2160))
    (folder / "8k.png").write_bytes(encode_png(large))
    (folder / "twelve.png").write_bytes(crowd_picture)
    for name in IGNORED:
        (folder / name).write_text("video,label\n")
    return folder


@pytest.fixture
def some(tmp_path: Path, face_pictures: dict[str, Any]) -> Path:
    """Three pictures: a face, no face, and one that is empty."""
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "face.png").write_bytes(encode_png(face_pictures["real"][0]))
    (folder / "noise.png").write_bytes(make_noise(0))
    (folder / "zero.png").write_bytes(b"")
    return folder


def _by_name(rows: list[Any]) -> dict[str, Any]:
    return {Path(getattr(row, "path", None) or row.video).name: row for row in rows}


def _check(name: str, status: str, error: str | None) -> None:
    expected = EXPECTED[name]
    assert (name, status) == (name, expected.status)
    for part in expected.error:
        assert error is not None and part in error, (name, error)
    assert bool(error) == bool(expected.error), (name, error)


@pytest.mark.isolated
def test_every_bad_input_gets_a_row_with_cause_and_remedy_and_the_others_are_scored(
    deepfake: Deepfake, inputs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    result = deepfake("predict", inputs, "--checkpoint", checkpoint, "-o", output, "--json")
    assert result.exit_code == 3, result.stderr
    rows = _by_name(read_scores(output))
    assert set(rows) == set(EXPECTED)
    for name, row in rows.items():
        _check(name, row.status, row.error)
        assert (row.fake_probability is not None) == (row.status == "ok")
        for fact, value in EXPECTED[name].facts.items():
            assert (name, fact, getattr(row, fact)) == (name, fact, value)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(list(line) == schema_of(ScoreRow).names for line in lines)
    assert [ScoreRow(**line) for line in lines] == read_scores(output)
    assert "2 files in the folders ignored: neither video nor image" in result.stderr
    assert "14 rows in" in result.stderr
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]
    assert f"weights: {checkpoint.name} ({digest}, not calibrated), faces by " in result.stderr


def test_the_stages_treat_the_same_inputs_the_same_way(
    deepfake: Deepfake, inputs: Path, detector_file: Path, checkpoint: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    extracted = deepfake("extract-frames", inputs, "-w", work, "--frames", 4)
    assert extracted.exit_code == 3
    assert extracted.stdout.startswith("extract-frames: 14 videos (8 ok, 6 unreadable), 23 frames in ")
    assert "2 other files ignored" in extracted.stdout
    for name, expected in EXPECTED.items():
        for part in expected.error:
            assert part in extracted.stderr, name
    detected = deepfake("detect-faces", "-w", work, "--detector", detector_file)
    assert detected.exit_code == 3
    for row in table_to_rows(read_table(work / "detect-faces" / "videos.parquet"), VideoRow):
        _check(Path(row.path).name, row.status, row.error)
    scored = deepfake("predict", "--faces", work, "--checkpoint", checkpoint, "--json")
    assert scored.exit_code == 3
    rows = [ScoreRow(**json.loads(line)) for line in scored.stdout.splitlines()]
    for name, score in _by_name(rows).items():
        _check(name, score.status, score.error)
    assert temporary_files(work) == []


def test_rows_are_lines_a_person_can_read(deepfake: Deepfake, some: Path, checkpoint: Path) -> None:
    (some / "zero.png").rename(some / "odd\nname\x1b[31m.png")
    result = deepfake("predict", some, "--checkpoint", checkpoint)
    assert result.exit_code == 3
    face, noise, odd = result.stdout.splitlines()
    name, probability, verdict, rest = face.split("  ")
    assert (name, rest) == ("face.png", "1 frame, 1 person")
    assert verdict in ("real", "fake") and 0 <= float(probability) <= 1
    assert noise == "noise.png  no_face"
    assert odd.startswith(r"odd\nname\x1b[31m.png  unreadable  ") and odd.endswith("copy it again from its source")


def test_quiet_with_an_output_says_nothing(deepfake: Deepfake, some: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    result = deepfake("predict", some, "--checkpoint", checkpoint, "-q", "-o", output)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", "")
    assert len(json.loads(output.read_text("utf-8"))) == 3


def test_a_second_run_says_what_it_did_not_do_again(
    deepfake: Deepfake, some: Path, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("predict", some, "--checkpoint", checkpoint, "-o", tmp_path / "scores.parquet")
    deepfake(*arguments)
    assert "2 videos scored before with the same settings" in deepfake(*arguments).stderr


def test_a_list_is_read_from_standard_input(deepfake: Deepfake, some: Path, checkpoint: Path) -> None:
    result = deepfake(
        "predict", "-", "--checkpoint", checkpoint, "--json", stdin=f"{some / 'noise.png'}\n\n{some / 'face.png'}\n"
    )
    assert result.exit_code == 0
    assert [json.loads(line)["video_key"] for line in result.stdout.splitlines()] == ["face", "noise"]


def test_a_name_with_a_leading_dash_is_taken_after_two_dashes(
    deepfake: Deepfake, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "-dash.png").write_bytes(make_noise(0))
    monkeypatch.chdir(tmp_path)
    result = deepfake("predict", "--checkpoint", checkpoint, "--", "-dash.png")
    assert (result.exit_code, result.stdout) == (0, "-dash.png  no_face\n")
    assert deepfake("extract-frames", "-w", "work", "--", "-dash.png").exit_code == 0


def test_details_aggregate_threshold_and_frames_are_passed_on(
    deepfake: Deepfake, clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = deepfake(
        "predict", clip, "--checkpoint", checkpoint, "--json", "--details", tmp_path / "details", "--aggregate", "mean",
        "--threshold", 0, "--frames", 2, "--min-frames", 2, "--batch-size", 1, "--decoder", "pyav",
    )  # fmt: skip
    row = json.loads(result.stdout)
    assert (row["frames"], row["verdict"], row["threshold"]) == (2, "fake", 0.0)
    (details,) = (tmp_path / "details").iterdir()
    assert read_table(details).num_rows == 2


def test_messages_also_go_to_a_log_file(deepfake: Deepfake, some: Path, checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    (some / "damaged").mkdir()
    result = deepfake("predict", some, "--checkpoint", checkpoint, "--log-file", log, "-v")
    assert result.exit_code == 3 and log.is_file()
    assert deepfake("predict", some, "--log-file", tmp_path / "none" / "run.log").exit_code == 2


@pytest.mark.isolated
def test_extraction_takes_labels_and_tells_what_was_done_before(deepfake: Deepfake, tmp_path: Path) -> None:
    write_video(tmp_path / "videos.mp4", num_frames=5)
    (tmp_path / "labels.csv").write_text("video,label\nvideos.mp4,fake\n")
    arguments = (
        "extract-frames", tmp_path / "videos.mp4", "-w", tmp_path / "work", "--labels", tmp_path / "labels.csv",
        "--fps", 5, "--start", 0, "--end", 0.2, "--format", "jpg", "--workers", 1,
    )  # fmt: skip
    first, second = deepfake(*arguments), deepfake(*arguments)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.startswith("extract-frames: 1 video (1 ok), 1 frame in ")
    assert "(1 ok, 1 done before)" in second.stdout
    assert deepfake(*arguments, "-q").stdout == ""
    (row,) = read_table(tmp_path / "work" / "extract-frames" / "videos.parquet").to_pylist()
    assert row["label"] == "fake"


@pytest.mark.isolated
def test_faces_are_imported_and_broken_ones_named(deepfake: Deepfake, tmp_path: Path, detector_file: Path) -> None:
    source = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}, {"image": b"broken"}])
    result = deepfake("import-faces", source, "-w", tmp_path / "work", "--detector", detector_file)
    assert result.exit_code == 3
    assert "f.parquet#1: unreadable: f.parquet#1 is not a readable picture" in result.stderr
    assert "2 videos (1 ok, 1 unreadable), 1 face in " in result.stdout


def test_training_ends_in_a_line_that_names_the_checkpoint(
    deepfake: Deepfake, tmp_path: Path, face_pictures: dict[str, Any]
) -> None:
    records = [
        {"image": encode_png(face_pictures[label][number]), "label": label, "split": split}
        for label in ("real", "fake")
        for number, split in enumerate(("train", "val"))
    ]
    work = tmp_path / "work"
    assert (
        deepfake("import-faces", write_faces_parquet(tmp_path / "f.parquet", records), "-w", work, "--as-is").exit_code
        == 0
    )
    arguments = (
        "train", "-w", work, "--run", "tiny", "--backbone", "mobilenetv2_imagenet", "--set", "num_attentions=1",
        "--input-size", 64, "--epochs", 1, "--batch-size", 2, "--set", "crop_box=94,118,286,310", "--lr", 0.0001,
        "--device", "cpu",
    )  # fmt: skip
    result = deepfake(*arguments)
    assert result.exit_code == 0, result.stderr
    checkpoint = work / "train" / "tiny" / "best.safetensors"
    assert result.stdout.startswith(f"{checkpoint}: epoch 1 of 1, validation AUC ")
    assert result.stdout.rstrip().endswith("on 2 videos (2 for training)")
    inspected = deepfake("inspect", checkpoint, "--json")
    assert json.loads(inspected.stdout)["preprocessing"]["crop_box"] == [94, 118, 286, 310]
    refused = deepfake(*arguments, "--seed", 5)
    assert refused.exit_code == 2 and "seed was 0 and is now 5" in refused.stderr


def test_a_plain_classifier_is_trained_and_used(deepfake: Deepfake, imported_faces: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(imported_faces, tmp_path / "work"))
    trained = deepfake(
        "train", "-w", work, "--preset", "backbone", "--backbone", "mobilenetv2_imagenet", "--input-size", 32,
        "--set", "drop_path_rate=0", "--epochs", 1, "--batch-size", 4,
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    checkpoint = work / "train" / "default" / "best.safetensors"
    told = json.loads(deepfake("inspect", checkpoint, "--json").stdout)
    assert told["model"] == "backbone/mobilenetv2_imagenet"
    scored = deepfake("predict", "--faces", work, "--checkpoint", checkpoint, "--json")
    assert [json.loads(line)["status"] for line in scored.stdout.splitlines()].count("ok") == 9


def test_augmentations_are_previewed_without_a_run(deepfake: Deepfake, imported_faces: Path, tmp_path: Path) -> None:
    work, picture = Path(shutil.copytree(imported_faces, tmp_path / "work")), tmp_path / "faces.png"
    result = deepfake("train", "-w", work, "--augment", "robust", "--preview-augmentations", picture)
    assert (result.exit_code, result.stdout) == (0, f"{picture}\n")
    assert cv2.imread(str(picture)).std() > 10 and not (work / "train").exists()


def test_settings_are_shown_without_a_run(deepfake: Deepfake, tmp_path: Path) -> None:
    result = deepfake(
        "train", "-w", tmp_path / "none", "--preset", "reference", "--set", "ril.weight=0.25", "--show-settings"
    )
    assert result.exit_code == 0 and not (tmp_path / "none").exists()
    assert {"preset = reference", "ril.weight = 0.25", "ril.inner_margins = 0.2 -0.8"} <= set(
        result.stdout.splitlines()
    )


def test_a_stage_and_a_checkpoint_are_inspected(deepfake: Deepfake, faces_workspace: Path, checkpoint: Path) -> None:
    told = deepfake("inspect", faces_workspace / "detect-faces")
    assert told.exit_code == 0
    assert told.stdout.startswith("manifest ") and "rows: 8" in told.stdout and "stage: extract-frames" in told.stdout
    value = json.loads(deepfake("inspect", checkpoint, "--json").stdout)
    assert (value["kind"], value["model"]) == ("checkpoint", "multi-attention/paper")

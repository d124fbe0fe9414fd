"""Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 incomplete, 4 a failed check, 130 and 143 interrupted; each with a message."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pipelines
from pipelines.scoring.score_files import read_scores
from tests.checkpoints.test_weights_files import RunsCode
from tests.conftest import Deepfake
from tests.fork_server import ForkServer
from tests.support import (
    REPOSITORY,
    encode_png,
    file_contents,
    make_noise,
    stage_content,
    temporary_files,
    wait_until,
    write_faces_parquet,
)
from tests.synthetic import write_video

NO_SPACE_MESSAGES = ("reached the file size limit; raise it (ulimit -f), then run again",)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", num_frames=6)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures without a face."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(make_noise(number, size_px=200))
    return folder


def _error_line(stderr: str) -> str:
    """The one line of an error; warnings may stand before it."""
    lines = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "pass either videos (or folders, lists), or --faces with a workspace"),
        (["predict", "VIDEO", "--faces", "WORK"], "pass either videos (or folders, lists), or --faces"),
        (
            ["predict", "VIDEO", "--checkpoint", "nothing"],
            "nothing is neither a file nor a known checkpoint; known: multi",
        ),
        (
            ["predict", "VIDEO", "--checkpoint", "CHECKPOINT", "--detector", "nothing"],
            "nor a known detector; known: retina",
        ),
        (
            ["predict", "VIDEO", "--checkpoint", "CHECKPOINT", "--device", "quantum"],
            "unknown device 'quantum'; use auto",
        ),
        (["predict", "VIDEO", "--checkpoint", "CHECKPOINT", "--device", "cuda:99"], "cuda:99 is not on this machine"),
        (
            ["predict", "VIDEO", "--checkpoint", "CHECKPOINT", "-o", "x.txt"],
            "x.txt must end in .csv, .parquet or .json",
        ),
        (
            ["predict", "VIDEO", "--checkpoint", "CHECKPOINT", "--threshold", "2"],
            "threshold must be in [0, 1], got 2.0",
        ),
        (
            ["predict", "--faces", "WORK", "--checkpoint", "CHECKPOINT"],
            "does not exist; make it with: deepfake extract",
        ),
        (
            ["predict", "VIDEO", "--checkpoint", "two\nlines\x1b[31m"],
            "two lines\\x1b[31m is neither a file nor a known",
        ),
        (["predict", "EMPTY", "--checkpoint", "CHECKPOINT"], "no videos found; pass video files or folders"),
        (["extract-frames", "VIDEO", "-w", "WORK", "--frames", "0"], "frames must be >= 1, got 0"),
        (["extract-frames", "VIDEO", "-w", "WORK", "--start", "3", "--end", "2"], "end must be > 3, got 2.0"),
        (["extract-frames", "VIDEO", "-w", "WORK", "--labels", "no.csv"], "no.csv is not a readable CSV file"),
        (["extract-frames", "EMPTY", "-w", "WORK"], "no videos found"),
        (["detect-faces", "-w", "WORK"], "does not exist; make it with: deepfake extract-frames"),
        (["detect-faces", "-w", "EMPTY"], "extract-frames has not been run in"),
        (["train", "-w", "EMPTY"], "detect-faces has not been run in"),
        (["train", "-w", "EMPTY", "--epochs", "0"], "epochs must be >= 1, got 0"),
        (["train", "-w", "EMPTY", "--set", "epochs"], "--set takes NAME=VALUE, such as ril.weight=0.5, got 'epochs'"),
        (["train", "-w", "EMPTY", "--set", "weight=1"], "'weight' could be ril.weight or ams.weight; give it in full"),
        (["train", "-w", "EMPTY", "--set", "ril.wait=1"], "no setting 'ril.wait'; did you mean ril.weight"),
        (["train", "-w", "EMPTY", "--set", "ril.weight=much"], "weight must be a number, got 'much'"),
        (["train", "-w", "EMPTY", "--set", "num_attentions=9"], "num_attentions must be <= 8, got 9"),
        (["train", "-w", "EMPTY", "--set", "crop_box=1,2,3"], "crop_box takes 4 values, got '1,2,3'"),
        (["train", "-w", "EMPTY", "--set", "crop_box=a,b,c,d"], "crop_box must be a whole number, got 'a'"),
        (["train", "-w", "EMPTY", "--set", "workers=many"], "workers must be a whole number, got 'many'"),
        (["train", "-w", "EMPTY", "--epochs", "0", "--show-settings"], "epochs must be >= 1, got 0"),
        (["train", "-w", "EMPTY", "--devices", "0"], "devices must be >= 1, got 0"),
        (
            ["train", "-w", "EMPTY", "--precision", "float16", "--device", "cpu"],
            "precision float16 needs a GPU; use float32 or bf16",
        ),
        (
            ["train", "-w", "EMPTY", "--preview-augmentations", "faces.txt"],
            "--preview-augmentations writes a .png or .jpg, not 'faces.txt'",
        ),
        (
            ["import-faces", "no.parquet", "-w", "WORK"],
            "no.parquet does not exist; pass a Parquet file, a CSV or a folder",
        ),
        (["inspect", "nothing"], "nothing does not exist; name a manifest (.parquet), a checkpoint"),
        (["weights", "path", "nothing"], "unknown weights 'nothing'; known: retinaface-mobilenet0.25, "),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(
    deepfake: Deepfake, tmp_path: Path, video: Path, work: Path, checkpoint: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    values = {"VIDEO": video, "WORK": work, "CHECKPOINT": checkpoint, "EMPTY": tmp_path / "empty"}
    result = deepfake(*(values.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert message in _error_line(result.stderr)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--no-such-option"],
        ["no-such-command"],
        ["extract-frames", "video.mp4"],
        ["extract-frames", "video.mp4", "-w", "work", "--frames", "many"],
        ["extract-frames", "video.mp4", "-w", "work", "--decoder", "vlc"],
        ["train", "-w", "work", "--input-size", "large"],
        ["train", "-w", "work", "--attentions", "2"],
        ["predict", "-dash.mp4"],
    ],
)
def test_a_command_line_that_does_not_parse_ends_with_2(deepfake: Deepfake, arguments: list[str]) -> None:
    result = deepfake(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and "Error" in result.stderr


@pytest.mark.isolated
def test_changed_settings_end_with_2_and_overwrite_with_0(deepfake: Deepfake, video: Path, work: Path) -> None:
    assert deepfake("extract-frames", video, "-w", work).exit_code == 0
    refused = deepfake("extract-frames", video, "-w", work, "--frames", 64)
    assert refused.exit_code == 2
    line = _error_line(refused.stderr)
    assert "frames was 32 and is now 64" in line and "pass --overwrite" in line and "use another workspace" in line
    assert deepfake("extract-frames", video, "-w", work, "--frames", 64, "--overwrite").exit_code == 0


def test_a_manifest_of_another_stage_ends_with_2(deepfake: Deepfake, faces_workspace: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "copy"))
    shutil.copy(work / "extract-frames" / "manifest.parquet", work / "detect-faces" / "manifest.parquet")
    result = deepfake("train", "-w", work)
    assert result.exit_code == 2
    assert "is a manifest of extract-frames, not of detect-faces" in _error_line(result.stderr)


def _of_another_template(checkpoint: Path, target: Path) -> Path:
    """The checkpoint with one word of its header exchanged for another of the same length."""
    content = checkpoint.read_bytes()
    assert content.count(b"wm-380") == 1
    target.write_bytes(content.replace(b"wm-380", b"other1"))
    return target


def _write(target: Path, content: bytes) -> Path:
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, c, d: d, "is not a deepfake checkpoint: it has no preprocessing contract; pass a file made by"),
        (lambda folder, c, d: _write(folder / "c.safetensors", os.urandom(4000)), "is not a safetensors file; pass a"),
        (lambda folder, c, d: _write(folder / "c.safetensors", b""), "is not a safetensors file"),
        (
            lambda folder, c, d: _write(folder / "c.safetensors", c.read_bytes()[:-99]),
            "is not a whole safetensors file",
        ),
        (lambda folder, c, d: _write(folder / "c.pth", struct.pack("<Q", 9)), "is not a safetensors file"),
        (lambda folder, c, d: _of_another_template(c, folder / "c.safetensors"), "template is other1, .* uses wm-380"),
        (lambda folder, c, d: folder / "missing.safetensors", "neither a file nor a known checkpoint"),
        (lambda folder, c, d: folder, "neither a file nor a known checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_ends_with_2(
    deepfake: Deepfake,
    tmp_path: Path,
    video: Path,
    checkpoint: Path,
    detector_file: Path,
    make: Callable[[Path, Path, Path], Path],
    message: str,
) -> None:
    import re

    result = deepfake("predict", video, "--checkpoint", make(tmp_path, checkpoint, detector_file))
    assert result.exit_code == 2
    assert re.search(message, _error_line(result.stderr))


@pytest.mark.parametrize("command", ["detect-faces", "import-faces", "predict"])
def test_a_checkpoint_given_as_detector_ends_with_2(
    deepfake: Deepfake, tmp_path: Path, video: Path, work: Path, checkpoint: Path, command: str
) -> None:
    deepfake("extract-frames", video, "-w", work)
    arguments = {
        "detect-faces": ("-w", work),
        "import-faces": (
            write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}]),
            "-w",
            tmp_path / "new",
        ),
        "predict": (video, "--checkpoint", checkpoint),
    }[command]
    result = deepfake(command, *arguments, "--detector", checkpoint)
    assert result.exit_code == 2
    assert "is not a RetinaFace detector; pass a detector's weights" in _error_line(result.stderr)


@pytest.mark.parametrize("option", ["--checkpoint", "--detector", "--init"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_code_in_a_weights_file_is_never_run(
    deepfake: Deepfake, tmp_path: Path, video: Path, checkpoint: Path, faces_workspace: Path, option: str, name: str
) -> None:
    mark = tmp_path / "code-was-run"
    path = _write(tmp_path / name, pickle.dumps({"weight": RunsCode(mark)}, protocol=2))
    if option == "--init":
        records = [
            {"image": make_noise(n), "label": label, "split": split}
            for n, (label, split) in enumerate([(a, b) for a in ("real", "fake") for b in ("train", "val")])
        ]
        deepfake("import-faces", write_faces_parquet(tmp_path / "f.parquet", records), "-w", tmp_path / "w", "--as-is")
        result = deepfake("train", "-w", tmp_path / "w", "--backbone", "mobilenetv2_imagenet", option, path)
    elif option == "--detector":
        result = deepfake("predict", video, "--checkpoint", checkpoint, option, path)
    else:
        result = deepfake("predict", video, option, path)
    assert result.exit_code == 2
    assert name in _error_line(result.stderr)
    assert not mark.exists()


@pytest.mark.isolated
def test_results_and_notes_end_with_0(deepfake: Deepfake, video: Path, checkpoint: Path) -> None:
    result = deepfake("predict", video, "--checkpoint", checkpoint, "--min-frames", 100)
    assert result.exit_code == 0
    assert "too_few_frames  4 frames decoded, fewer than --min-frames 100" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract-frames", "VIDEO", "-w", "FILE/work"],
        ["predict", "VIDEO", "--checkpoint", "CHECKPOINT", "-o", "FILE/scores.csv"],
        ["predict", "CLIP", "--checkpoint", "CHECKPOINT", "--details", "FILE/details"],
    ],
)
def test_an_output_that_can_not_be_written_ends_with_3(
    deepfake: Deepfake, tmp_path: Path, video: Path, clip: Path, checkpoint: Path, arguments: list[str]
) -> None:
    file = _write(tmp_path / "file", b"no folder")
    values = {"VIDEO": str(video), "CHECKPOINT": str(checkpoint), "CLIP": str(clip)}
    result = deepfake(*(values.get(a, a).replace("FILE", str(file)) for a in arguments))
    assert result.exit_code == 3
    assert "could not write" in _error_line(result.stderr) and "then run again" in result.stderr
    assert file.read_bytes() == b"no folder"


def test_a_folder_without_permission_ends_with_3(deepfake: Deepfake, tmp_path: Path, video: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    result = deepfake("extract-frames", video, "-w", locked / "work")
    assert result.exit_code == 3
    assert "no permission to write" in _error_line(result.stderr)


def test_a_leak_ends_with_4_and_names_what_leaks(deepfake: Deepfake, work: Path, tmp_path: Path) -> None:
    records = [
        {"image": make_noise(n), "video": f"{n}", "label": label, "split": split, "identity": "Ann" if n < 2 else None}
        for n, (label, split) in enumerate([(a, b) for a in ("real", "fake") for b in ("train", "val")])
    ]
    deepfake("import-faces", write_faces_parquet(tmp_path / "f.parquet", records), "-w", work, "--as-is")
    result = deepfake("train", "-w", work, "--backbone", "mobilenetv2_imagenet")
    assert result.exit_code == 4
    assert "1 identity on more than one side of train, val, test: identity 'Ann': 0 (train), 1 (val)" in _error_line(
        result.stderr
    )
    assert result.stdout == "" and not (work / "train").exists()


def test_a_bug_ends_with_1_and_keeps_its_traceback(
    deepfake: Deepfake, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pipelines, "predict", break_down)
    result = deepfake("predict", video)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_reader_that_has_gone_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deepfake_cli", "weights", "list"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), errors) == (0, b"")


@pytest.mark.parametrize(
    ("number", "exit_code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_batch_which_then_goes_on(
    processes: ForkServer, tmp_path: Path, pictures: Path, checkpoint: Path, number: int, exit_code: int, word: str
) -> None:
    output = tmp_path / "scores.csv"
    arguments = ("predict", pictures, "--checkpoint", checkpoint, "-o", output)
    running = processes.start(*arguments)
    running.wait_for_line()
    running.send_signal(number)
    ended = running.wait()
    assert ended.exit_code == exit_code
    assert ended.stderr == f"{word}; finished work is kept: run the same command again to resume\n"
    assert not output.exists()
    finished = len(ended.stdout.splitlines())
    assert 1 <= finished < 12

    again = processes.run(*arguments)
    assert again.exit_code == 0 and "scored before with the same settings" in again.stderr
    assert len(read_scores(output)) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "scores.csv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stage_which_then_goes_on(
    processes: ForkServer, tmp_path: Path, pictures: Path, number: int
) -> None:
    for index in range(12):
        write_video(pictures / f"{index}.mp4", num_frames=60 + index)
    work = tmp_path / "work"
    running = processes.start("extract-frames", pictures, "-w", work)
    while not list(work.glob("extract-frames/parts/*.parquet")):
        pass
    running.send_signal(number)
    ended = running.wait()
    assert ended.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143}[signal.Signals(number)]
    assert not (work / "extract-frames" / "manifest.parquet").exists()
    again = processes.run("extract-frames", pictures, "-w", work)
    assert again.exit_code == 0 and "done before" in again.stdout
    assert temporary_files(work) == []


TRAIN = (
    "--backbone", "mobilenetv2_imagenet", "--set", "num_attentions=2", "--input-size", 32, "--epochs", 1, "--batch-size", 4,
    "--augment", "robust", "--set", "crop_box=94,118,286,310", "--set", "mid_features=16", "--set", "samples_per_epoch=60",
    "--set", "ema_decay=0.5", "--set", "schedule=cosine", "--set", "warmup_steps=5",
)  # fmt: skip
"""One epoch of 15 steps."""


@pytest.fixture(scope="module")
def trained(processes: ForkServer, imported_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a training leaves that nothing has stopped."""
    work = Path(shutil.copytree(imported_faces, tmp_path_factory.mktemp("trained") / "work"))
    assert processes.run("train", "-w", work, *TRAIN).exit_code == 0
    return _training_of(work)


def _training_of(work: Path) -> Any:
    run = work / "train" / "default"
    return stage_content(run), file_contents(run, ".safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "exit_code", "word"),
    [
        ([signal.SIGINT], 130, "interrupted"),
        ([signal.SIGTERM], 143, "terminated"),
        ([signal.SIGINT, signal.SIGINT], 130, "interrupted"),
    ],
    ids=["ctrl-c", "terminate", "ctrl-c twice"],
)
def test_a_signal_ends_a_training_in_the_middle_of_an_epoch_which_then_goes_on(
    processes: ForkServer,
    imported_faces: Path,
    tmp_path: Path,
    trained: Any,
    numbers: list[int],
    exit_code: int,
    word: str,
) -> None:
    work = Path(shutil.copytree(imported_faces, tmp_path / "work"))
    run = work / "train" / "default"
    running = processes.start("train", "-w", work, *TRAIN, "-q")
    wait_until(lambda: any(run.glob("tensorboard/*")))  # a step has been logged
    for number in numbers:
        running.send_signal(number)
        time.sleep(0.01)  # signals of one kind do not queue
    ended = running.wait()
    assert ended.exit_code == exit_code, ended.stderr
    assert ended.stderr.endswith(f"{word}; finished work is kept: run the same command again to resume\n")
    assert not (run / "manifest.parquet").exists() and not (run / "last.safetensors").exists()
    assert temporary_files(work) == []
    if len(numbers) == 1:
        state = torch.load(run / "last.state.pt", weights_only=True)
        assert state["rows"] == [] and 1 <= state["step"] == len(state["sums"]) < 15

    again = processes.run("train", "-w", work, *TRAIN)
    assert again.exit_code == 0, again.stderr
    assert _training_of(work) == trained
    assert temporary_files(work) == []


def test_a_disk_without_space_fails_the_videos_and_says_so(
    processes: ForkServer, clip: Path, video: Path, work: Path
) -> None:
    """The frames of one video fit, those of the other do not."""
    ended = processes.run("extract-frames", clip, video, "-w", work, "--frames", 2, max_file_bytes=60_000)
    assert ended.exit_code == 3
    assert "1 failed, 1 ok" in ended.stdout
    assert "astronaut.mp4: failed: " in ended.stderr and NO_SPACE_MESSAGES[0] in ended.stderr
    assert temporary_files(work) == []
    again = processes.run("extract-frames", clip, video, "-w", work, "--frames", 2)
    assert again.exit_code == 0 and "(2 ok, 1 done before)" in again.stdout


@pytest.mark.parametrize("max_file_bytes", [300, 2000])
def test_a_disk_without_any_space_ends_a_stage_with_one_line(
    processes: ForkServer, video: Path, work: Path, max_file_bytes: int
) -> None:
    ended = processes.run("extract-frames", video, "-w", work, "--frames", 2, max_file_bytes=max_file_bytes)
    assert ended.exit_code == 3
    assert NO_SPACE_MESSAGES[0] in _error_line(ended.stderr)
    assert temporary_files(work) == []
    assert not (work / "extract-frames" / "manifest.parquet").exists()
    assert processes.run("extract-frames", video, "-w", work, "--frames", 2).exit_code == 0


def test_a_disk_without_space_keeps_the_scores_that_were_written(
    processes: ForkServer, tmp_path: Path, pictures: Path, checkpoint: Path
) -> None:
    output = tmp_path / "scores.csv"
    arguments = ("predict", pictures, "--checkpoint", checkpoint, "-q", "-o", output)
    ended = processes.run(*arguments, max_file_bytes=2000)
    assert ended.exit_code == 3
    assert "scores.csv.journal reached the file size limit" in _error_line(ended.stderr)
    assert not output.exists()
    again = processes.run(*(argument for argument in arguments if argument != "-q"))
    assert again.exit_code == 0 and "videos scored before" in again.stderr
    assert len(read_scores(output)) == 12 and temporary_files(tmp_path) == []


def test_a_disk_without_space_leaves_no_half_checkpoint(
    processes: ForkServer, tmp_path: Path, work: Path, face_pictures: dict[str, Any]
) -> None:
    records = [
        {"image": encode_png(face_pictures[label][n]), "label": label, "split": split}
        for label in ("real", "fake")
        for n, split in enumerate(("train", "val"))
    ]
    source = write_faces_parquet(tmp_path / "f.parquet", records)
    assert processes.run("import-faces", source, "-w", work, "--as-is").exit_code == 0
    before = stage_content(work / "detect-faces")
    arguments = (
        "train", "-w", work, "--backbone", "mobilenetv2_imagenet", "--input-size", 64, "--epochs", 1, "--batch-size", 2,
    )  # fmt: skip
    for max_file_bytes, name in ((2_000_000, "last.safetensors"), (20_000_000, "last.state.pt")):
        ended = processes.run(*arguments, max_file_bytes=max_file_bytes)
        assert ended.exit_code == 3, ended.stderr
        assert f"{name} reached the file size limit; raise it" in _error_line(ended.stderr)
        assert temporary_files(work) == []
        assert not (work / "train" / "default" / name).exists()
    assert processes.run(*arguments).exit_code == 0
    assert stage_content(work / "detect-faces") == before

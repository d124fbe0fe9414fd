"""kill -9 in the middle of any command, run it again: the result is that of an undisturbed run, and nothing else.

Processes kill themselves with SIGKILL just before a change to the folder they write to: a file that is opened for
writing, a rename, a removal. The moments are spread over the changes that an undisturbed run makes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.scoring.score_files import read_scores
from tests.fork_server import ForkServer
from tests.support import encode_png, file_contents, make_noise, stage_content, temporary_files, write_faces_parquet
from tests.synthetic import write_video

KILLED = -9
MOMENTS = (0.0, 0.3, 0.55, 0.8, 1.0)
"""Shares of an undisturbed run's changes."""


@dataclass(frozen=True)
class Command:
    """A command under test: what it starts from, its arguments, and what it leaves, to be compared."""

    prepare: Callable[[Path], None]
    arguments: Callable[[Path], tuple[object, ...]]
    result: Callable[[Path], Any]


def _stage_result(name: str) -> Callable[[Path], Any]:
    def result(folder: Path) -> Any:
        stage = folder / "work" / name
        return stage_content(stage), file_contents(stage, ".png")

    return result


def _train_result(folder: Path) -> Any:
    run = folder / "work" / "train" / "default"
    return stage_content(run), file_contents(run, ".safetensors", ".parquet")


@pytest.fixture(scope="module")
def commands(
    tmp_path_factory: pytest.TempPathFactory,
    faces_workspace: Path,
    detector_file: Path,
    checkpoint: Path,
    face_pictures: dict[str, Any],
) -> dict[str, Command]:
    sources = tmp_path_factory.mktemp("sources")
    videos = sources / "videos"
    videos.mkdir()
    for number in range(3):
        write_video(videos / f"{number}.mp4", num_frames=4 + number)
    pictures = sources / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(face_pictures["real"]):
        (pictures / f"{number}.png").write_bytes(encode_png(picture))
    (pictures / "noise.png").write_bytes(make_noise(0))
    faces = write_faces_parquet(
        sources / "faces.parquet",
        [
            {"image": encode_png(face_pictures[label][number]), "label": label, "split": split}
            for label in ("real", "fake")
            for number, split in enumerate(("train", "train", "val"))
        ],
    )
    imported = sources / "imported"

    def nothing(_folder: Path) -> None:
        pass

    def frames_of_clips(folder: Path) -> None:
        shutil.copytree(faces_workspace / "extract-frames", folder / "work" / "extract-frames")

    def shards_of_frames(folder: Path) -> None:
        from pipelines import ExtractConfig, RunOptions, Shard, extract_frames

        for index in (1, 2):
            extract_frames([videos], folder / "work", ExtractConfig(frames=2), RunOptions(shard=Shard(index, 2)))

    def imported_faces(folder: Path) -> None:
        from pipelines import ImportConfig, import_faces

        if not imported.is_dir():
            import_faces(faces, imported, ImportConfig(as_is=True))
        shutil.copytree(imported, folder / "work")

    return {
        "extract-frames": Command(
            nothing,
            lambda folder: ("extract-frames", videos, "-w", folder / "work", "--frames", 2, "--workers", 1),
            _stage_result("extract-frames"),
        ),
        "detect-faces": Command(
            frames_of_clips,
            lambda folder: ("detect-faces", "-w", folder / "work", "--detector", detector_file),
            _stage_result("detect-faces"),
        ),
        "merge": Command(
            shards_of_frames,
            lambda folder: ("merge", "-w", folder / "work", "--stage", "extract-frames"),
            _stage_result("extract-frames"),
        ),
        "extract-frames --shard": Command(
            nothing,
            lambda folder: ("extract-frames", videos, "-w", folder / "work", "--workers", 1, "--shard", "1/1"),
            lambda folder: file_contents(folder / "work" / "extract-frames", ".parquet", ".png"),
        ),
        "import-faces": Command(
            nothing,
            lambda folder: ("import-faces", faces, "-w", folder / "work", "--detector", detector_file, "--workers", 1),
            _stage_result("detect-faces"),
        ),
        "train": Command(
            imported_faces,
            lambda folder: (
                "train", "-w", folder / "work", "--backbone", "mobilenetv2_imagenet", "--attentions", 2,
                "--input-size", 32, "--epochs", 2, "--backbone-epochs", 1, "--batch-size", 4, "--ema", 0.5,
            ),
            _train_result,
        ),
        "predict": Command(
            nothing,
            lambda folder: (
                "predict", pictures, "--checkpoint", checkpoint, "-o", folder / "out" / "scores.csv",
                "--details", folder / "out" / "details",
            ),
            lambda folder: (
                read_scores(folder / "out" / "scores.csv"),
                {path.name for path in (folder / "out").rglob("*")},
                file_contents(folder / "out", ".csv", ".parquet"),
            ),
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    commands: dict[str, Command], processes: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, int]]:
    """What a command leaves that nothing disturbs, and how many changes to its folder it takes."""
    known: dict[str, tuple[Any, int]] = {}

    def run(name: str) -> tuple[Any, int]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            commands[name].prepare(folder)
            ended = processes.run(*commands[name].arguments(folder), watch=folder)
            assert ended.exit_code == 0, ended.stderr
            known[name] = commands[name].result(folder), ended.changes
        return known[name]

    return run


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "name",
    ["extract-frames", "extract-frames --shard", "merge", "detect-faces", "import-faces", "train", "predict"],
)
def test_a_command_that_was_killed_and_run_again_equals_an_undisturbed_one(
    commands: dict[str, Command],
    processes: ForkServer,
    undisturbed: Callable[[str], tuple[Any, int]],
    tmp_path: Path,
    name: str,
    moment: float,
) -> None:
    expected, changes = undisturbed(name)
    command = commands[name]
    command.prepare(tmp_path)
    kill_at = 1 + round(moment * (changes - 1))
    killed = processes.run(*command.arguments(tmp_path), watch=tmp_path, kill_at=kill_at)
    assert killed.exit_code == KILLED, killed.stderr
    again = processes.run(*command.arguments(tmp_path))
    assert again.exit_code == 0, again.stderr
    assert command.result(tmp_path) == expected
    assert temporary_files(tmp_path) == []


def test_a_command_that_is_killed_again_and_again_still_comes_to_its_end(
    commands: dict[str, Command],
    processes: ForkServer,
    undisturbed: Callable[[str], tuple[Any, int]],
    tmp_path: Path,
) -> None:
    expected, _ = undisturbed("extract-frames")
    command = commands["extract-frames"]
    exit_codes = [processes.run(*command.arguments(tmp_path), watch=tmp_path, kill_at=12).exit_code for _ in range(6)]
    assert set(exit_codes[:2]) == {KILLED}
    assert processes.run(*command.arguments(tmp_path)).exit_code == 0
    assert command.result(tmp_path) == expected
    assert temporary_files(tmp_path) == []

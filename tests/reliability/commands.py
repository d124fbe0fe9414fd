"""Every command that writes: its inputs, and what it must leave when it has finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import (
    ExtractConfig,
    ImportConfig,
    PredictConfig,
    RunOptions,
    Shard,
    extract_frames,
    import_faces,
    predict,
)
from pipelines.errors import DeepfakeError
from pipelines.scoring.score_files import read_scores
from pipelines.workspace.manifest import read_provenance, read_table
from tests.support import encode_png, file_contents, make_noise, stage_content, write_faces_parquet
from tests.synthetic import write_video

Arguments = tuple[object, ...]


@dataclass(frozen=True)
class Command:
    """A command under test, in its own folder."""

    arguments: Callable[[Path], Arguments]
    result: Callable[[Path], Any]
    """Everything that it leaves, for comparison."""
    prepare: Callable[[Path], None] = lambda _folder: None
    said_to_be_finished: Callable[[Path], Any] = lambda _folder: None
    """What a reader would take as finished, with everything it refers to; None if nothing."""
    finished_items: Callable[[Path], set[str]] = lambda _folder: set()
    """What no disaster may destroy."""

    def again(self, folder: Path) -> Arguments:
        """The arguments that resume an interrupted run."""
        return tuple(argument for argument in self.arguments(folder) if argument != "--overwrite")


@dataclass(frozen=True)
class Sources:
    """What the commands read."""

    videos: Path
    """A folder with three short videos below a folder named real."""
    pictures: Path
    faces: Path
    """A Parquet file for `import-faces`."""
    frames: Path
    """A workspace with the frames of two clips with a face."""
    imported: Path
    """A workspace with faces for `train`."""
    detector: Path
    checkpoint: Path


def make_sources(
    folder: Path, clips: Iterable[Path], face_pictures: dict[str, Any], detector: Path, checkpoint: Path
) -> Sources:
    """Write what the commands read."""
    for name in ("videos/real", "pictures"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        write_video(folder / "videos" / "real" / f"{number}.mp4", num_frames=3 + number, size=(64, 48))
    for number, picture in enumerate(face_pictures["real"][:3]):
        (folder / "pictures" / f"{number}.png").write_bytes(encode_png(picture))
    (folder / "pictures" / "noise.png").write_bytes(make_noise(0))
    faces = write_faces_parquet(
        folder / "faces.parquet",
        [
            {"image": encode_png(face_pictures[label][number]), "label": label, "split": split}
            for label in ("real", "fake")
            for number, split in enumerate(("train", "train", "val"))
        ],
    )
    extract_frames(list(clips), folder / "frames", ExtractConfig(frames=2))
    import_faces(faces, folder / "imported", ImportConfig(as_is=True))
    return Sources(
        folder / "videos",
        folder / "pictures",
        faces,
        folder / "frames",
        folder / "imported",
        detector,
        checkpoint,
    )


def make_commands(sources: Sources) -> dict[str, Command]:
    """By name."""
    extract = ("--frames", 2, "--workers", 1)
    train = (
        "--backbone", "mobilenetv2_imagenet", "--set", "num_attentions=2", "--input-size", 32, "--epochs", 2,
        "--set", "backbone_epochs=1", "--batch-size", 4, "--set", "ema_decay=0.5",
    )  # fmt: skip

    def scores_of(*options: object) -> Callable[[Path], Arguments]:
        return lambda folder: (
            "predict", sources.pictures, "--checkpoint", sources.checkpoint, "-o", folder / "out" / "scores.csv",
            "--details", folder / "out" / "details", *options,
        )  # fmt: skip

    def extracts(*options: object) -> Callable[[Path], Arguments]:
        return lambda folder: ("extract-frames", sources.videos, "-w", folder / "work", *extract, *options)

    def extracted(*names: str) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            for chosen in (("0", "1", "2"), names):
                paths = [sources.videos / "real" / f"{name}.mp4" for name in chosen]
                extract_frames(paths, folder / "work", ExtractConfig(frames=2))

        return prepare

    def shards(folder: Path) -> None:
        for index in (1, 2):
            options = RunOptions(shard=Shard(index, 2))
            extract_frames([sources.videos], folder / "work", ExtractConfig(frames=2), options)

    def scored(folder: Path) -> None:
        config = PredictConfig(checkpoint=str(sources.checkpoint))
        predict([sources.pictures / "1.png"], config, output=folder / "out" / "scores.csv")

    return {
        "index": Command(
            lambda folder: ("index", "folder", sources.videos, "-w", folder / "work"),
            lambda folder: file_contents(folder / "work" / "index", ".parquet"),
        ),
        "extract-frames": _stage("extract-frames", extracts()),
        "extract-frames, once more with other videos": _stage("extract-frames", extracts(), extracted("1")),
        "extract-frames --overwrite": _stage(
            "extract-frames", extracts("--overwrite"), extracted("0", "1", "2"), keeps_items=False
        ),
        "extract-frames --shard": Command(
            extracts("--shard", "1/1"),
            lambda folder: file_contents(folder / "work" / "extract-frames", ".parquet", ".png"),
            finished_items=lambda folder: _whole_parts(folder / "work" / "extract-frames"),
        ),
        "extract-frames after its shards": _stage("extract-frames", extracts(), shards),
        "detect-faces": _stage(
            "detect-faces",
            lambda folder: ("detect-faces", "-w", folder / "work", "--detector", sources.detector),
            lambda folder: shutil.copytree(sources.frames, folder / "work"),
        ),
        "import-faces": _stage(
            "detect-faces",
            lambda folder: (
                "import-faces", sources.faces, "-w", folder / "work", "--detector", sources.detector, "--workers", 1,
            ),
        ),
        "train": Command(
            lambda folder: ("train", "-w", folder / "work", *train),
            _training,
            lambda folder: shutil.copytree(sources.imported, folder / "work"),
            lambda folder: _training(folder) if (_run(folder) / "manifest.parquet").exists() else None,
        ),
        "predict": _scores(scores_of()),
        "predict, once more with more videos": _scores(scores_of(), scored),
        "predict --shard": _scores(scores_of("--shard", "1/1")),
    }  # fmt: skip


def _stage(
    name: str,
    arguments: Callable[[Path], Arguments],
    prepare: Callable[[Path], None] = lambda _folder: None,
    *,
    keeps_items: bool = True,
) -> Command:
    def result(folder: Path) -> Any:
        stage = folder / "work" / name
        return stage_content(stage), file_contents(stage, ".png")

    def said_to_be_finished(folder: Path) -> Any:
        stage = folder / "work" / name
        if not (stage / "manifest.parquet").exists():
            return None
        rows = read_table(stage / "manifest.parquet").to_pylist()
        paths = [row.get("path") or row["crop_path"] for row in rows]
        return stage_content(stage), {path: (stage / path).read_bytes() for path in paths}

    def finished_items(folder: Path) -> set[str]:
        return _whole_parts(folder / "work" / name) if keeps_items else set()

    return Command(arguments, result, prepare, said_to_be_finished, finished_items)


def _scores(arguments: Callable[[Path], Arguments], prepare: Callable[[Path], None] = lambda _folder: None) -> Command:
    def result(folder: Path) -> Any:
        out = folder / "out"
        names = {path.name for path in out.rglob("*")}
        return read_scores(out / "scores.csv"), names, file_contents(out, ".csv", ".parquet")

    def said_to_be_finished(folder: Path) -> Any:
        path = folder / "out" / "scores.csv"
        return path.read_bytes() if path.exists() else None

    def finished_items(folder: Path) -> set[str]:
        journal = folder / "out" / "scores.csv.journal"
        lines = journal.read_text().split("\n")[1:-1] if journal.exists() else []
        scores = folder / "out" / "scores.csv"
        rows = read_scores(scores) if scores.exists() else []
        return {json.loads(line)["sha256"] for line in lines} | {row.sha256 for row in rows}

    return Command(arguments, result, prepare, said_to_be_finished, finished_items)


def _run(folder: Path) -> Path:
    return folder / "work" / "train" / "default"


def _training(folder: Path) -> Any:
    return stage_content(_run(folder)), file_contents(_run(folder), ".safetensors", ".parquet")


def _whole_parts(stage: Path) -> set[str]:
    """Items that a later run skips."""
    whole = set()
    for path in stage.glob("parts/*.parquet"):
        try:
            read_provenance(path)
            whole.add(path.name)
        except DeepfakeError:
            pass
    return whole

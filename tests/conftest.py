"""Shared fixtures: clips, a tiny checkpoint, the program in this process and in others."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

import weights
from tests.fork_server import ForkServer
from tests.support import EXAMPLES, REPOSITORY, encode_png, make_noise, write_faces_parquet

if TYPE_CHECKING:
    from pipelines.data.faces import Face

# The test networks are too small to gain from threads. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

Image = npt.NDArray[np.uint8]
Deepfake = Callable[..., Result]

CROP_BOX = (94, 118, 286, 310)
INPUT_SIZE = 64
TINY_NETWORK = {
    "backbone": "mobilenetv2_imagenet",
    "num_attentions": 2,
    "mid_features": 16,
    "drop_path_rate": 0.0,
}
TINY_PYRAMID = {
    "backbone": "mobilenetv2_imagenet",
    "width": 16,
    "layers": 1,
    "spatial_channels": 8,
    "mask_channels": 8,
    "consistency_channels": 8,
}
LOGIT_GAIN = 200.0
"""A network with random weights gives almost the same logits for any two faces. Its last layer is amplified around one
face, so that mixed-up frames and crops change the score."""


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """As in a terminal: a process started in the background ignores Ctrl-C, and so would its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes import torch, which takes seconds: only commands of tests marked `isolated` start them."""
    if not request.node.get_closest_marker("isolated"):
        monkeypatch.setattr("deepfake_cli.options.ISOLATE", False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The local data folder next to the repository, which is not part of it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("local data folder ../shared is absent")
    return folder


@pytest.fixture(scope="session")
def clip() -> Path:
    """3 s of 480x480 pixels with one genuine face."""
    return EXAMPLES / "astronaut.mp4"


@pytest.fixture(scope="session")
def forged_clip() -> Path:
    """The same scene with a forged face."""
    return EXAMPLES / "astronaut-forged.mp4"


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the embedded detector's weights, as a file that a user passes."""
    file = Path(weights.__file__).parent / "retinaface-mobilenet0.25.safetensors"
    return Path(shutil.copy(file, tmp_path_factory.mktemp("detector")))


@pytest.fixture(scope="session")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, detector_file: Path, face_pictures: dict[str, list[Image]]
) -> Path:
    """A checkpoint of a small network with random weights."""
    import torch

    from pipelines.checkpoints.checkpoint import CheckpointHeader, save_checkpoint
    from pipelines.checkpoints.preprocessing import Preprocessing, resize_square, to_network_input
    from pipelines.models import build_model, model_config
    from pipelines.system.file_digest import file_digest

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model("multi-attention/paper", **TINY_NETWORK).eval()
    state = network.state_dict()
    state["classifier.2.weight"] *= LOGIT_GAIN
    state["classifier.2.bias"] *= 0
    face = resize_square(face_pictures["real"][0], INPUT_SIZE)
    with torch.inference_mode():
        state["classifier.2.bias"] -= network(to_network_input([face], Preprocessing())).logits[0]
    contract = Preprocessing(
        input_size=INPUT_SIZE,
        crop_box=CROP_BOX,
        detector=str(detector_file),
        detector_sha256=file_digest(detector_file),
        frames=4,
    )
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, state, CheckpointHeader("multi-attention/paper", model_config(network), contract))
    return path


@pytest.fixture(scope="session")
def map_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, detector_file: Path, face_pictures: dict[str, list[Image]]
) -> Path:
    """A checkpoint of a small network with random weights that gives forgery maps, with values from 0 to 1 on each face."""
    import torch

    from pipelines.checkpoints.checkpoint import CheckpointHeader, save_checkpoint
    from pipelines.checkpoints.preprocessing import Preprocessing, resize_square, to_network_input
    from pipelines.models import build_model, model_config
    from pipelines.system.file_digest import file_digest
    from tests.networks import settle

    contract = Preprocessing(
        input_size=INPUT_SIZE,
        crop_box=CROP_BOX,
        detector=str(detector_file),
        detector_sha256=file_digest(detector_file),
        frames=4,
    )
    faces = [resize_square(picture, INPUT_SIZE) for label in ("real", "fake") for picture in face_pictures[label]]
    images = to_network_input(faces, contract)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model("f-bifpn-mtlnet/small", **TINY_PYRAMID)
        settle(network, lambda: network(images))
    with torch.inference_mode():
        output = network(images)
    state = network.state_dict()
    for layer, outputs, gain in (("classifier", output.logits, LOGIT_GAIN), ("mask.3", output.dense.mask, 2.0)):
        amplify = gain if layer == "classifier" else gain / float(outputs.std())
        middle = outputs.mean(dim=0) if layer == "classifier" else outputs.mean()
        state[f"{layer}.bias"] = (state[f"{layer}.bias"] - middle) * amplify
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * amplify
    path = tmp_path_factory.mktemp("checkpoint") / "maps.safetensors"
    save_checkpoint(path, state, CheckpointHeader("f-bifpn-mtlnet/small", model_config(network), contract))
    return path


@pytest.fixture(scope="session")
def face_pictures(clip: Path, forged_clip: Path) -> dict[str, list[Image]]:
    """Tight crops of faces, (180, 150, 3) uint8 RGB, four each under `real` and `fake`."""
    from pipelines.video import open_video

    pictures = {}
    for label, path in (("real", clip), ("fake", forged_clip)):
        with open_video(path) as video:
            frames = list(video.frames([0, 4, 8, 12]))
        pictures[label] = [np.ascontiguousarray(frame.image[40:220, 115:265]) for frame in frames]
    return pictures


@pytest.fixture(scope="session")
def crowd_picture(face_pictures: dict[str, list[Image]]) -> bytes:
    """A PNG of 600x540 pixels with twelve faces."""
    rows = [np.concatenate([face_pictures["real"][k] for k in range(4)], axis=1) for _ in range(3)]
    return encode_png(np.concatenate(rows))


@pytest.fixture(scope="session")
def faces_workspace(
    tmp_path_factory: pytest.TempPathFactory, clip: Path, forged_clip: Path, detector_file: Path
) -> Path:
    """A workspace with four frames of both clips and their faces. Copy it to change it."""
    from pipelines import DetectConfig, ExtractConfig, detect_faces, extract_frames

    work = tmp_path_factory.mktemp("faces") / "work"
    extract_frames([clip, forged_clip], work, ExtractConfig(frames=4))
    detect_faces(work, DetectConfig(detector=str(detector_file)))
    return work


@pytest.fixture(scope="session")
def training_faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Face], list[Face]]:
    """Eight training and eight validation crops: noise is real, checkers are fake; two faces a video."""
    import cv2

    from pipelines.data.faces import Face

    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    checkers = np.indices((380, 380)).sum(axis=0) // 20 % 2
    made: list[Face] = []
    for number in range(16):
        label, video = number % 2, f"video{number // 4}-{number % 2}"
        noise = rng.integers(0, 256, (380, 380, 3))
        image = np.repeat((checkers * (120 + 8 * number))[..., None], 3, axis=2) if label else noise
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image.astype(np.uint8))
        made.append(Face(path, label, video))
    return made[:8], made[8:]


@pytest.fixture(scope="session")
def imported_faces(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, list[Image]]) -> Path:
    """A workspace with ten pictures: splits train, val and test, and one picture that does not decode. Copy it to use it."""
    from pipelines import ImportConfig, import_faces

    records: list[dict[str, object]] = []
    for label, pictures in face_pictures.items():
        for number, split in enumerate(("train", "train", "val", "test")):
            video = f"{label}/{number}"
            records.append({"image": encode_png(pictures[number]), "video": video, "label": label, "split": split})
    records.append({"image": make_noise(5), "video": "unlabelled", "label": None, "split": "train"})
    records.append({"image": b"broken", "video": "broken", "label": "real", "split": "train"})
    folder = tmp_path_factory.mktemp("imported")
    import_faces(write_faces_parquet(folder / "f.parquet", records), folder / "work", ImportConfig(as_is=True))
    return folder / "work"


@pytest.fixture
def deepfake() -> Iterator[Deepfake]:
    """The program in this process: `deepfake("predict", path)` gives exit code, stdout and stderr."""
    from deepfake_cli.app import app

    runner = CliRunner()
    logger = logging.getLogger("pipelines")
    before = logger.level, logger.propagate, list(logger.handlers)
    on_terminate = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object, stdin: str | None = None) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments], input=stdin)

    yield run
    for handler in logger.handlers:
        handler.close()
    logger.level, logger.propagate, logger.handlers = before[0], before[1], before[2]
    signal.signal(signal.SIGTERM, on_terminate)


@pytest.fixture(scope="session")
def processes() -> Iterator[ForkServer]:
    """The program in separate processes, which start quickly."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork processes")
    with ForkServer() as server:
        yield server

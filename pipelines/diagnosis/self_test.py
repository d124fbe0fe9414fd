"""The self-test: score a clip, and compare both networks with torch's plain CPU code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.diagnosis.child import shorten, take_steps
from pipelines.diagnosis.finding import Finding

SELF_TEST_SECONDS = 300.0
NAME = "self-test"
NUM_FRAMES = 8
DRAWN_SIZE_PX = (160, 120)
CPU_TOLERANCE = 1e-4
"""Largest difference of a probability between two float32 implementations; 1e-6 is usual."""
GPU_TOLERANCE = 0.02
"""GPUs round the factors of convolutions to 10 bits by default."""


def check_self_test() -> list[Finding]:
    """Score a clip with the embedded weights, in a child process."""
    (outcome,) = take_steps([NAME], seconds=SELF_TEST_SECONDS)
    if outcome.error is not None:
        remedy = "fix the failed checks above; if there are none: pip install --force-reinstall torch torchvision av"
        return [Finding(NAME, "broken", shorten(outcome.error), remedy)]
    return [judge(**outcome.value)]


def judge(
    *, device: str, clip: str | None, status: str, error: str | None, frames: int, faces: int, difference: float
) -> Finding:
    """The finding from the facts of `run_self_test`."""
    reinstall = "pip install --force-reinstall torch torchvision av"
    name = clip or "a drawn clip without a face (only a checkout has the example clip)"
    wanted = "ok" if clip else "no_face"
    if status != wanted or not frames:
        message = f"{name} gave {status}, not {wanted}, with {frames} frames" + (f": {shorten(error)}" if error else "")
        return Finding(NAME, "broken", message, reinstall)
    tolerance = CPU_TOLERANCE if device == "cpu" else GPU_TOLERANCE
    compared = f"the networks' probabilities on {device} differ by {difference:.1g} from torch's plain CPU code"
    if not difference <= tolerance:  # NaN too
        return Finding(
            NAME, "broken", f"{compared}; at most {tolerance:g} is right", f"{reinstall}, or give another --device"
        )
    return Finding(NAME, "ok", f"{name}: {status}, {frames} frames, {faces} faces; {compared}")


def run_self_test(clip: Path | None = None) -> dict[str, Any]:
    """Facts for `judge`, on the device that `--device auto` chooses.

    Args:
        clip: one with a face. None: the example clip, or, outside a checkout, a drawn one.
    """
    from pipelines.config import PredictConfig
    from pipelines.engines.comparison import EXAMPLE_CLIP
    from pipelines.scoring.detector import Detector

    if clip is None and EXAMPLE_CLIP.is_file():
        clip = EXAMPLE_CLIP
    with tempfile.TemporaryDirectory() as folder:
        detector = Detector(config=PredictConfig(frames=NUM_FRAMES))
        score = detector.score(clip or draw_clip(Path(folder) / "drawn.mp4"))
    return {
        "device": detector.device.type,
        "clip": clip and clip.name,
        "status": score.status,
        "error": score.error,
        "frames": score.num_frames,
        "faces": len(score.faces),
        "difference": compare_with_plain_code(detector.device),
    }


def draw_clip(path: Path) -> Path:
    """A moving gradient in the codec that every FFmpeg has."""
    import av
    import numpy as np

    width, height = DRAWN_SIZE_PX
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(NUM_FRAMES):
            image = np.zeros((height, width, 3), np.uint8)
            image[:] = (np.arange(width) + 4 * number)[:, None] % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def compare_with_plain_code(device: Any) -> float:
    """Largest difference between probabilities on the device and those of torch's plain kernels on the CPU.

    Of the default classifier, and of the default detector's anchors, on fixed random images. On a CPU with oneDNN the two are
    different convolutions. No stored numbers are needed, so this holds for any weights.
    """
    import numpy as np

    from pipelines.checkpoints.checkpoint import load_checkpoint
    from pipelines.checkpoints.preprocessing import to_network_input
    from pipelines.config import DEFAULT_CHECKPOINT, DEFAULT_DETECTOR
    from pipelines.engines.comparison import make_random_inputs
    from pipelines.faces.detector import load_detector
    from pipelines.models import build_model

    checkpoint = load_checkpoint(DEFAULT_CHECKPOINT, build_model)
    contract = checkpoint.header.preprocessing
    images = to_network_input(make_random_inputs(contract.input_size), contract)
    detector = load_detector(DEFAULT_DETECTOR).network
    differences = (
        _difference(checkpoint.network, images, device, lambda output: output.logits),
        _difference(detector, images, device, lambda output: output[1]),
    )
    return float(np.max(differences))  # of numbers and NaN: NaN


def _difference(network: Any, images: Any, device: Any, logits_of: Callable[[Any], Any]) -> float:
    import torch

    with torch.inference_mode():
        with torch.backends.mkldnn.flags(enabled=False):
            expected = logits_of(network(images)).softmax(-1)
        got = logits_of(network.to(device)(images.to(device))).softmax(-1).cpu()
    return float((got - expected).abs().max())

"""The steps run in a separate process, and the program of that process: `python -m … STEP…`.

Each step prints one JSON object with `step`, `value` and `error`. Nothing is imported before the first one.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pipelines.errors import DeepfakeError

MAX_ERROR_CHARS = 2000
DECODERS: dict[str, tuple[str, ...]] = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp9": ("vp9", "libvpx-vp9"),
    "av1": ("libdav1d", "libaom-av1"),
    "mpeg4": ("mpeg4",),
    "mjpeg": ("mjpeg",),
    "prores": ("prores",),
}
"""Codec to FFmpeg's decoders that need no special hardware; its own `av1` does."""


def main(steps: Sequence[str]) -> None:
    """Take the steps up to the first that fails."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep what libraries print out of the answers
    for step in steps:
        value, error = _take(step)
        print(json.dumps({"step": step, "value": value, "error": error}), file=answers, flush=True)
        if error:
            return


def _take(step: str) -> tuple[Any, str | None]:
    try:
        if step in PROBES:
            return PROBES[step](), None
        import_module(step)
        return None, None
    except DeepfakeError as error:
        return None, str(error)
    except (Exception, SystemExit) as error:
        return None, f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]


def use_torchvision() -> None:
    """Import it and use one of its compiled operators: of a torch that does not match, those are missing."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)


def list_devices() -> dict[str, Any]:
    """Threads of torch, and the GPUs that it sees, each with what goes wrong when it computes."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    gpus = []
    for number in range(torch.cuda.device_count() if has_cuda else 0):
        memory = torch.cuda.get_device_properties(number).total_memory
        gpus.append(_try_gpu(f"cuda:{number}", f"{torch.cuda.get_device_name(number)}, {memory / 1e9:.0f} GB"))
    if torch.backends.mps.is_available():
        gpus.append(_try_gpu("mps", "Apple GPU"))
    return {
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda_build": torch.version.cuda,
        "warnings": [str(warning.message) for warning in said],
    }


def _try_gpu(device: str, name: str) -> dict[str, str | None]:
    import torch

    error = None
    try:
        torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device)).sum().item()
    except RuntimeError as problem:
        error = str(problem)[:MAX_ERROR_CHARS]
    return {"device": device, "name": name, "error": error}


def list_codecs() -> dict[str, Any]:
    """FFmpeg's version in PyAV, and which of `DECODERS` it lacks."""
    import av

    return {
        "ffmpeg": av.ffmpeg_version_info,
        "there": [codec for codec, names in DECODERS.items() if any(map(_has_decoder, names))],
    }


def _has_decoder(name: str) -> bool:
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    try:
        Codec(name, "r")
    except UnknownCodecError:
        return False
    return True


def score_a_clip() -> dict[str, Any]:
    """See `self_test`."""
    from pipelines.diagnosis.self_test import run_self_test

    return run_self_test()


PROBES: dict[str, Callable[[], Any]] = {
    "torchvision": use_torchvision,
    "devices": list_devices,
    "codecs": list_codecs,
    "self-test": score_a_clip,
}
"""Steps that do more than import a module of their name."""


if __name__ == "__main__":
    main(sys.argv[1:])

"""Choosing where to compute."""

from __future__ import annotations

import torch

from pipelines.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of a `--device` value: auto takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: the device is unknown or not present.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:0 or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:0 or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"{name} is not on this machine ({torch.cuda.device_count()} CUDA devices); use --device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("mps is not on this machine; use --device cpu")
    return device

"""Starts a run in this process on one device, or in one process for each of several devices, with Lightning Fabric.

Fabric, not Accelerate: in Fabric, devices, precision and processes are arguments of one object; Accelerate needs a launcher
and reads environment variables.
"""

from __future__ import annotations

import logging
import pickle
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.multiprocessing
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning_fabric.strategies.ddp import DDPStrategy

from pipelines.errors import ConfigError, DeepfakeError
from pipelines.records import EpochRow
from pipelines.system.device import choose_device
from pipelines.system.processes import StopSignals, end_with_parent
from pipelines.training.config import TrainConfig, TrainOptions, TrainPrecision
from pipelines.training.loop import StepReport
from pipelines.training.run import TrainingRun, continue_run

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # at import, as new processes log before they work
_FABRIC_PRECISION = {"float32": "32-true", "bf16": "bf16-mixed", "float16": "16-mixed"}
PROCESS_TIMEOUT = timedelta(hours=6)
"""How long processes wait for each other: the first one validates while the others wait."""
OnStep = Callable[[StepReport, list[EpochRow]], None]


def choose_precision(precision: TrainPrecision, device: torch.device) -> TrainPrecision:
    """Resolve `auto`: float32 on a CPU, where bf16 gains little; bf16 on a GPU that supports it."""
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a GPU; use float32 or bf16")
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def check_devices(config: TrainConfig, options: TrainOptions) -> None:
    """Refuse devices that this machine does not have, and a batch size that cannot be divided among them.

    Raises:
        ConfigError: with the reason.
    """
    device, count, batch = choose_device(options.device), options.devices, config.optimization.batch_size
    if count > 1 and device.type == "cuda" and torch.cuda.device_count() < count:
        raise ConfigError(f"--devices {count}: this machine has {torch.cuda.device_count()} CUDA devices")
    if count > 1 and device.index is not None:
        raise ConfigError(
            f"--device {options.device} names one device, --devices asks for {count}; use --device {device.type}"
        )
    if count > 1 and device.type == "mps":
        raise ConfigError("--devices needs CUDA or CPU; mps is one device")
    if batch % (2 * count * config.optimization.accumulate):
        raise ConfigError(
            f"a batch of {batch} cannot be divided evenly among {count} devices with accumulate="
            f"{config.optimization.accumulate}; change --batch-size"
        )


def launch(run: TrainingRun, on_step: OnStep) -> list[EpochRow]:
    """Train until the run is done.

    On Ctrl-C or SIGTERM, the step in progress is finished and the state saved; a second signal stops at once.

    Raises:
        TrainingDivergedError, ManifestError, CheckpointError: see `continue_run`.
        KeyboardInterrupt, or the program's reaction to SIGTERM: the run was stopped, and is saved.
    """
    with StopSignals() as signals:
        fabric = make_fabric(run.config, run.options)
        if run.options.devices == 1:
            rows = continue_run(fabric, run, on_step, lambda: signals.received is not None)
        else:
            rows = _launch_processes(fabric, run, on_step, signals)
    if rows is None:
        signals.answer()
        raise KeyboardInterrupt
    return rows


class _OneMachine(LightningEnvironment):
    """Starts processes on this machine only, and ignores environment variables of clusters and earlier runs."""

    @property
    def creates_processes_externally(self) -> bool:
        return False

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        if self._main_port == -1:
            self._main_port = find_free_network_port()
        return self._main_port

    def node_rank(self) -> int:
        return 0


def make_fabric(config: TrainConfig, options: TrainOptions) -> Fabric:
    """Devices, precision and processes of a run. Processes are spawned, as a forked CUDA context is unusable."""
    device, count = choose_device(options.device), options.devices
    several = DDPStrategy(start_method="spawn", find_unused_parameters=True, timeout=PROCESS_TIMEOUT)
    return Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" and count == 1 else count,
        strategy=several if count > 1 else "auto",
        precision=_FABRIC_PRECISION[config.precision],  # type: ignore[arg-type]
        plugins=[_OneMachine()],
    )


def _launch_processes(fabric: Fabric, run: TrainingRun, on_step: OnStep, signals: StopSignals) -> list[EpochRow] | None:
    """Progress comes back through a queue; an event stops the processes."""
    context = torch.multiprocessing.get_context("spawn")
    messages, stop = context.SimpleQueue(), context.Event()
    signals.on_receive = stop.set
    reader = _Reader(messages, on_step, stop)
    reader.start()
    try:  # pickled both ways: Fabric searches its arguments for tensors and fails on frozen dataclasses
        outcome = pickle.loads(fabric.launch(_work, pickle.dumps(run), messages, stop))  # type: ignore[arg-type]
    finally:
        messages.put(None)
        reader.join()
    error = reader.error or (outcome if isinstance(outcome, DeepfakeError) else None)
    if error is not None:
        raise error
    return outcome  # type: ignore[no-any-return]


def _work(fabric: Fabric, pickled: bytes, messages: Any, stop: Any) -> bytes:
    """Runs in each process. Expected errors are returned as values, so that they keep their type."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal signals all processes; the parent stops the others
    end_with_parent()

    def on_step(report: StepReport, rows: list[EpochRow]) -> None:
        if fabric.is_global_zero:
            messages.put((report, rows))

    try:
        return pickle.dumps(continue_run(fabric, pickle.loads(pickled), on_step, stop.is_set))
    except DeepfakeError as error:
        return pickle.dumps(error)


class _Reader(threading.Thread):
    """Passes progress to the caller. If that fails, the run is stopped and saved, and the queue is still drained."""

    def __init__(self, messages: Any, on_step: OnStep, stop: Any) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._messages, self._on_step, self._stop_event = messages, on_step, stop

    def run(self) -> None:
        while (message := self._messages.get()) is not None:
            if self.error is not None:
                continue
            try:
                self._on_step(*message)
            except BaseException as error:  # re-raised in the caller's thread
                self.error = error
                self._stop_event.set()

"""What a training run shows of itself while it runs: TensorBoard curves, `log.csv` and pictures of its attention maps.

Nothing here is needed to train, to resume or to predict; so no failure here ends a training.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from pipelines.errors import StorageError
from pipelines.records import EpochRow
from pipelines.system.atomic_files import replace_atomically
from pipelines.system.image_files import Image, encode_image

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)
SPEED_COLUMNS = ("images_per_second", "peak_memory_mb", "loader_share", "seconds")
LOG_COLUMNS = (*(field.name for field in fields(EpochRow)), *SPEED_COLUMNS)
BYTES_PER_MB = 10**6
THREAD_END_SECONDS = 1.0

_Arguments = ParamSpec("_Arguments")


def _harmless(
    method: Callable[Concatenate[RunMonitor, _Arguments], None],
) -> Callable[Concatenate[RunMonitor, _Arguments], None]:
    """What fails inside switches the monitor off with one warning; from then on the method does nothing."""

    @wraps(method)
    def guarded(self: RunMonitor, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        if self.is_off:
            return
        try:
            method(self, *args, **kwargs)
        except (OSError, StorageError) as error:
            self.is_off = True
            log.warning("curves, log.csv and attention pictures end here (%s); training continues", error)
        except Exception:  # a bug, or an error of TensorFlow's file layer, which TensorBoard uses where it is installed
            self.is_off = True
            log.exception("curves, log.csv and attention pictures end here; training continues")

    return guarded


class RunMonitor:
    """Writes into a run's folder; a context manager. Steps and epochs count from 1, as in `EpochRow`.

    A step is one update of the run's weights, counted over all epochs. Curves of epochs have the same axis: they stand
    at the last step that was logged. So a resumed run takes back exactly what an interrupted epoch had written.
    """

    def __init__(self, folder: Path, *, finished_epochs: int, finished_steps: int, tensorboard: bool = True) -> None:
        self.folder = folder
        self.is_off = False
        self._step = finished_steps
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._curves = _Curves(folder / "tensorboard", first_step=finished_steps + 1) if tensorboard else None
        self._take_back(finished_epochs)

    def __enter__(self) -> RunMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending. May be called twice."""
        self._flush()
        if self._curves:
            self._curves.close()
            self._curves = None

    @_harmless
    def log_step(self, step: int, values: Mapping[str, float | None]) -> None:
        """Curves `train/<name>` of one update: losses, learning rate; None is left out."""
        self._step = step
        self._add_scalars({f"train/{name}": value for name, value in values.items()})

    @_harmless
    def log_epoch(
        self,
        row: EpochRow,
        *,
        images_per_second: float,
        peak_memory_mb: float,
        loader_share: float,
        seconds: float,
    ) -> None:
        """A line of `log.csv` and the curves of an epoch.

        Args:
            row: the epoch's losses and validation.
            images_per_second: training images, over the training part of the epoch.
            peak_memory_mb: from `peak_memory_mb`; NaN where it is not known.
            loader_share: 0..1, time spent waiting for images.
            seconds: of the training part, since the start or the resume.
        """
        speed = dict(zip(SPEED_COLUMNS, (images_per_second, peak_memory_mb, loader_share, seconds), strict=True))
        known = {name: None if math.isnan(value) else value for name, value in speed.items()}
        self._rows[row.epoch] = asdict(row) | known
        self._write_rows()
        self._add_scalars(
            {
                "val/auc": row.val_auc,
                "val/log_loss": row.val_log_loss,
                "attention/pairwise_cosine": row.attention_cosine,
                **{f"speed/{name}": value for name, value in known.items()},
            }
        )
        if self._curves:
            self._curves.flush()

    @_harmless
    def log_overlay(self, epoch: int, picture: Image) -> None:
        """A picture (H, W, 3) uint8 RGB as `attention/epoch-007.jpg` and in TensorBoard as `attention/maps`."""
        with replace_atomically(self.folder / "attention" / f"epoch-{epoch:03d}.jpg") as temporary:
            temporary.write_bytes(encode_image(picture, ".jpg"))
        if self._curves:
            self._curves.add_image("attention/maps", picture, self._step)
            self._curves.flush()

    @_harmless
    def _take_back(self, finished_epochs: int) -> None:
        """Drop the lines of epochs that did not count and will be run again."""
        rows = _read_rows(self.folder / "log.csv")
        self._rows = {epoch: row for epoch, row in rows.items() if epoch <= finished_epochs}
        if len(self._rows) < len(rows):
            self._write_rows()

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, LOG_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[epoch] for epoch in sorted(self._rows))
        with replace_atomically(self.folder / "log.csv") as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")

    def _add_scalars(self, values: Mapping[str, float | None]) -> None:
        if self._curves:
            self._curves.add_scalars({tag: value for tag, value in values.items() if value is not None}, self._step)

    @_harmless
    def _flush(self) -> None:
        if self._curves:
            self._curves.flush()


def _read_rows(path: Path) -> dict[int, Mapping[str, Any]]:
    """The lines of `log.csv` by epoch; none, with a warning, if it is damaged."""
    rows: dict[int, Mapping[str, Any]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if "epoch" not in (reader.fieldnames or ()):
                raise ValueError("no column epoch")
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"line {reader.line_num} has too few or too many cells")
                rows[int(row["epoch"])] = row
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error) as error:
        log.warning("%s is damaged (%s) and is begun anew; the training itself loses nothing", path, error)
        return {}
    return rows


class _Curves:
    """TensorBoard's event file, opened when something is first written; inactive where TensorBoard cannot be used."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self._folder = folder
        self._first_step = first_step
        self._writer: SummaryWriter | None = None
        self._is_missing = False
        self._release_hook: Callable[[], None] = lambda: None

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        if writer := self._open():
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)

    def add_image(self, tag: str, picture: Image, step: int) -> None:
        if writer := self._open():
            writer.add_image(tag, picture, step, dataformats="HWC")

    def flush(self) -> None:
        """Wait until all is in the file; raises what the writing thread has met."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            with suppress(Exception):  # it has been flushed; what fails now was reported then
                self._writer.close()
        self._writer, self._is_missing = None, True
        self._release_hook()

    def _open(self) -> SummaryWriter | None:
        if self._writer or self._is_missing:
            return self._writer
        try:
            from torch.utils.tensorboard import SummaryWriter
        except Exception as error:  # besides ImportError: an incompatible protobuf raises TypeError
            self._is_missing = True
            log.info("no TensorBoard curves (%s); `pip install tensorboard` to have them", error)
            return None
        self._release_hook = _hide_writer_threads()
        # also in a fresh run: TensorBoard takes a folder's first such mark for its beginning, and hides nothing for it
        self._writer = SummaryWriter(str(self._folder), purge_step=self._first_step)
        return self._writer


def _hide_writer_threads() -> Callable[[], None]:
    """Keep tracebacks of TensorBoard's writing thread off the terminal; returns the way back.

    On a full disk or in a removed folder that thread dies, and the next call to its writer raises the same error.
    """
    earlier = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not _writes_events(args.thread):
            earlier(args)

    def release() -> None:
        for thread in filter(_writes_events, threading.enumerate()):
            thread.join(THREAD_END_SECONDS)  # one that has just failed must still find the hook
        if threading.excepthook is hook:
            threading.excepthook = earlier

    threading.excepthook = hook
    return release


def _writes_events(thread: threading.Thread | None) -> bool:
    return type(thread).__module__.startswith("tensorboard.")


def peak_memory_mb(device_type: str) -> float:
    """Most memory so far, in 10^6 bytes: of tensors on a CUDA device, else of the process; NaN where unknown."""
    if device_type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / BYTES_PER_MB
    try:  # Linux; getrusage there begins with the peak of the program that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")) / BYTES_PER_MB
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / BYTES_PER_MB

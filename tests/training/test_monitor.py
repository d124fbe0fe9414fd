"""A run's curves, log and pictures: each epoch once, whatever was interrupted, and no failure ends a training."""

from __future__ import annotations

import csv
import errno
import logging
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipelines.records import EpochRow
from pipelines.system.image_files import read_image
from pipelines.training import monitor as monitor_module
from pipelines.training.monitor import RunMonitor, peak_memory_mb
from tests.support import temporary_files

STEPS_PER_EPOCH = 4
ROW_COLUMNS = tuple(field.name for field in fields(EpochRow))
SPEED: dict[str, float] = {"images_per_second": 31.5, "peak_memory_mb": 900.0, "loader_share": 0.25, "seconds": 12.0}
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def _row(epoch: int, **changes: Any) -> EpochRow:
    """An epoch in which the fields that no test looks at are not known."""
    known: dict[str, Any] = {
        "epoch": epoch,
        "val_auc": 0.75 + epoch / 100,
        "val_log_loss": 0.5,
        "attention_cosine": 0.5,
        "is_best": epoch == 1,
    }
    return EpochRow(**dict.fromkeys(ROW_COLUMNS) | known | changes)


def _open(folder: Path, finished_epochs: int = 0, **options: Any) -> RunMonitor:
    steps = finished_epochs * STEPS_PER_EPOCH
    return RunMonitor(folder, finished_epochs=finished_epochs, finished_steps=steps, **options)


def _run_epoch(monitor: RunMonitor, epoch: int, *, steps: int = STEPS_PER_EPOCH, loss: float = 1.0) -> None:
    for step in range(1, steps + 1):
        monitor.log_step((epoch - 1) * STEPS_PER_EPOCH + step, {"loss": loss, "ril": None})
    if steps == STEPS_PER_EPOCH:
        monitor.log_epoch(_row(epoch), **SPEED)
        monitor.log_overlay(epoch, PICTURE)


def _log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _curves(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"))
    return found.Reload()


def _points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in _curves(folder).Scalars(tag)]


def _wait_for_another_second() -> None:
    """Event files are read in the order of their names, which begin with the whole second they were opened in."""
    time.sleep(1.05 - time.time() % 1)


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipelines")


@pytest.fixture
def uncaught() -> Iterator[list[threading.ExceptHookArgs]]:
    """What threads would have printed as a traceback."""
    found: list[threading.ExceptHookArgs] = []
    earlier, threading.excepthook = threading.excepthook, found.append
    yield found
    threading.excepthook = earlier


def test_curves_can_be_read_back(tmp_path: Path) -> None:
    with _open(tmp_path) as monitor:
        monitor.log_step(1, {"loss": 2.0, "ce": 1.5, "ril": None, "learning_rate": 0.001})
        monitor.log_step(2, {"loss": 1.0, "ce": 0.5, "ril": 0.25, "learning_rate": 0.002})
        monitor.log_epoch(_row(1), **SPEED)
    assert _points(tmp_path, "train/loss") == [(1, 2.0), (2, 1.0)]
    assert _points(tmp_path, "train/learning_rate") == [(1, 0.001), (2, 0.002)]
    assert _points(tmp_path, "train/ril") == [(2, 0.25)]
    assert _points(tmp_path, "val/auc") == [(2, 0.76)]
    assert _points(tmp_path, "val/log_loss") == [(2, 0.5)]
    for name, value in SPEED.items():
        assert _points(tmp_path, f"speed/{name}") == [(2, value)]


def test_the_overlap_of_the_maps_is_a_curve_where_it_is_known(tmp_path: Path) -> None:
    with _open(tmp_path) as monitor:
        _run_epoch(monitor, 1)
        monitor.log_step(2 * STEPS_PER_EPOCH, {})
        monitor.log_epoch(_row(2, attention_cosine=None), **SPEED)
    assert _points(tmp_path, "attention/pairwise_cosine") == [(STEPS_PER_EPOCH, 0.5)]


def test_the_log_has_a_line_per_epoch_with_every_field_and_the_speed(tmp_path: Path) -> None:
    with _open(tmp_path) as monitor:
        for epoch in (1, 2):
            _run_epoch(monitor, epoch)
            assert [line["epoch"] for line in _log(tmp_path)] == ["1", "2"][:epoch]  # at once, not at the end
    lines = _log(tmp_path)
    assert tuple(lines[0]) == (*ROW_COLUMNS, *SPEED)
    assert float(lines[1]["val_auc"]) == _row(2).val_auc
    assert lines[0]["train_ce_augmented"] == "" and lines[0]["is_best"] == "True"
    assert float(lines[1]["images_per_second"]) == 31.5
    assert temporary_files(tmp_path) == []


def test_pictures_of_attention_are_files_and_in_tensorboard(tmp_path: Path) -> None:
    smooth = cv2.resize(PICTURE[:4, :4], (60, 40))
    with _open(tmp_path) as monitor:
        _run_epoch(monitor, 1)
        monitor.log_step(28, {"loss": 1.0})
        monitor.log_overlay(7, smooth)
    written = sorted(path.name for path in (tmp_path / "attention").iterdir())
    assert written == ["epoch-001.jpg", "epoch-007.jpg"]
    assert np.abs(read_image(tmp_path / "attention" / "epoch-007.jpg").astype(int) - smooth).mean() < 5
    shown = _curves(tmp_path).Images("attention/maps")[-1]
    decoded = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert shown.step == 28
    np.testing.assert_array_equal(decoded[..., ::-1], smooth)


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_an_epoch_that_was_interrupted_and_run_again_appears_once(tmp_path: Path, finished: int) -> None:
    with _open(tmp_path) as monitor:  # stopped after the second epoch's line, before or after its state was saved
        _run_epoch(monitor, 1)
        _run_epoch(monitor, 2)
        _run_epoch(monitor, 3, steps=2)
    _wait_for_another_second()
    with _open(tmp_path, finished) as monitor:
        assert [int(line["epoch"]) for line in _log(tmp_path)] == [1, 2][:finished]
        for epoch in range(finished + 1, 4):
            _run_epoch(monitor, epoch, loss=7.0)
    kept = finished * STEPS_PER_EPOCH
    losses = [1.0] * kept + [7.0] * (3 * STEPS_PER_EPOCH - kept)
    assert _points(tmp_path, "train/loss") == list(enumerate(losses, start=1))
    assert [step for step, _ in _points(tmp_path, "val/auc")] == [4, 8, 12]
    assert [image.step for image in _curves(tmp_path).Images("attention/maps")] == [4, 8, 12]
    assert [int(line["epoch"]) for line in _log(tmp_path)] == [1, 2, 3]


def test_a_log_continued_is_byte_for_byte_the_log_of_one_run(tmp_path: Path) -> None:
    with _open(tmp_path / "one", tensorboard=False) as monitor:
        for epoch in (1, 2, 3):
            _run_epoch(monitor, epoch)
    for finished in (0, 1, 2):
        with _open(tmp_path / "three", finished, tensorboard=False) as monitor:
            _run_epoch(monitor, finished + 1)
    assert (tmp_path / "three" / "log.csv").read_bytes() == (tmp_path / "one" / "log.csv").read_bytes()


def test_a_log_of_fewer_columns_is_continued(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,val_auc\n1,0.5\n")
    with _open(tmp_path, 1, tensorboard=False) as monitor:
        _run_epoch(monitor, 2)
    lines = _log(tmp_path)
    assert [(line["epoch"], line["val_auc"]) for line in lines] == [("1", "0.5"), ("2", "0.77")]
    assert lines[0]["seconds"] == ""


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\xfe\x80 no text",
        b"",
        b"some,other\n1,2\n",
        b"epoch,val_auc\n1,0.5\n2\n",
        b"epoch,val_auc\n1,0.5,3,4\n",
        b"epoch,val_auc\none,0.5\n",
        b'epoch,val_auc\n1,"0.5\n',
    ],
)
def test_a_damaged_log_is_begun_anew_with_a_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with _open(tmp_path, 2, tensorboard=False) as monitor:
        _run_epoch(monitor, 3)
    assert [line["epoch"] for line in _log(tmp_path)] == ["3"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is damaged" in caplog.text


def test_memory_that_nobody_knows_is_an_empty_cell_and_no_point(tmp_path: Path) -> None:
    with _open(tmp_path) as monitor:
        monitor.log_epoch(_row(1), **SPEED | {"peak_memory_mb": math.nan})
    assert _log(tmp_path)[0]["peak_memory_mb"] == ""
    assert "speed/peak_memory_mb" not in _curves(tmp_path).Tags()["scalars"]


def test_nothing_is_written_before_something_is_logged(tmp_path: Path) -> None:
    with _open(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_only_its_files_are_missing_and_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch.utils, "tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with _open(tmp_path) as monitor:
        for epoch in (1, 2):
            _run_epoch(monitor, epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention", "log.csv"]
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "pip install tensorboard" in caplog.text


def test_tensorboard_can_be_declined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _open(tmp_path, tensorboard=False) as monitor:
        _run_epoch(monitor, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention", "log.csv"]
    assert caplog.records == []


def test_a_full_disk_ends_the_monitor_with_one_warning_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with _open(tmp_path) as monitor:
        _run_epoch(monitor, 1)
        before = (tmp_path / "log.csv").read_bytes()

        def fail(_self: Path, *_args: Any, **_options: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", fail)
            _run_epoch(monitor, 2)
        _run_epoch(monitor, 3)  # there is space again; but a curve with a hole would mislead
    assert monitor.is_off
    assert (tmp_path / "log.csv").read_bytes() == before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no space left" in caplog.text and "training continues" in caplog.text
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("moment", ["step", "epoch", "close"])
def test_an_event_file_that_can_not_be_written_prints_no_traceback(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    uncaught: list[threading.ExceptHookArgs],
    moment: str,
) -> None:
    """TensorBoard writes in a thread of its own, which dies; here because its folder is removed."""
    pytest.importorskip("tensorboard")
    hook = threading.excepthook
    with _open(tmp_path) as monitor:
        _run_epoch(monitor, 1)
        shutil.rmtree(tmp_path / "tensorboard")
        monitor.log_step(5, {"loss": 1.0})
        if moment == "step":
            for step in range(6, 60):
                monitor.log_step(step, {"loss": 1.0})
                time.sleep(0.01)
            assert monitor.is_off
        if moment == "epoch":
            monitor.log_epoch(_row(2), **SPEED)
            assert monitor.is_off
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "training continues" in caplog.text
    assert uncaught == [] and threading.excepthook is hook


def test_a_writing_thread_that_dies_late_prints_no_traceback_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncaught: list[threading.ExceptHookArgs]
) -> None:
    """Its error is known to `close` a moment before Python would print it; the delay makes that moment long."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    run = writer._AsyncWriterThread.run

    def run_and_linger(self: threading.Thread) -> None:
        try:
            run(self)
        except OSError:
            time.sleep(0.2)
            raise

    monkeypatch.setattr(writer._AsyncWriterThread, "run", run_and_linger)
    with _open(tmp_path) as monitor:
        _run_epoch(monitor, 1)
        shutil.rmtree(tmp_path / "tensorboard")
        monitor.log_step(5, {"loss": 1.0})
    time.sleep(0.3)
    assert uncaught == []


def test_tracebacks_of_other_threads_are_still_shown(tmp_path: Path, uncaught: list[threading.ExceptHookArgs]) -> None:
    pytest.importorskip("tensorboard")
    with _open(tmp_path) as monitor:
        monitor.log_step(1, {"loss": 1.0})
        other = threading.Thread(target=lambda: 1 / 0)
        other.start()
        other.join()
    assert [args.exc_type for args in uncaught] == [ZeroDivisionError]


def test_a_folder_that_can_not_be_made_ends_the_monitor_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with _open(tmp_path / "run") as monitor:
        _run_epoch(monitor, 1)
    assert monitor.is_off
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_error_that_is_no_file_error_keeps_its_traceback_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _open(tmp_path, tensorboard=False) as monitor:
        monitor.log_overlay(1, np.zeros((0, 0, 3), np.uint8))
        _run_epoch(monitor, 1)
    assert monitor.is_off and not (tmp_path / "log.csv").exists()
    assert "Traceback" in caplog.text and len(caplog.records) == 1


def test_an_error_of_the_training_passes_through_and_closes_the_files(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _open(tmp_path) as monitor:
        monitor.log_step(1, {"loss": 2.0})
        raise KeyboardInterrupt
    assert _points(tmp_path, "train/loss") == [(1, 2.0)]


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    monitor = _open(tmp_path)
    monitor.log_step(1, {"loss": 2.0})
    monitor.close()
    monitor.close()
    assert _points(tmp_path, "train/loss") == [(1, 2.0)]


def test_the_first_curve_prints_nothing_and_the_module_itself_loads_no_tensors(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipelines.training.monitor import RunMonitor;"
        "assert not {'torch', 'tensorboard'} & set(sys.modules);"
        f"monitor = RunMonitor(Path({str(tmp_path)!r}), finished_epochs=0, finished_steps=0);"
        "monitor.log_step(1, {'loss': 1.0}); monitor.close(); assert not monitor.is_off"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_peak_memory_is_that_of_the_process_and_grows_with_it() -> None:
    """In a process of its own: the peak of this one may be far above what it holds now."""
    code = (
        "import numpy as np; from pipelines.training.monitor import peak_memory_mb; before = peak_memory_mb('cpu');"
        "block = np.ones(int(before * 1e6 / 8)); print(before, block.nbytes / 1e6, peak_memory_mb('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    before, block, after = map(float, done.stdout.split())
    assert 20 < before < 2000
    assert block <= after <= before + 2 * block


@pytest.mark.parametrize(
    ("platform", "peak", "expected_mb"), [("linux", 500_000, 512.0), ("darwin", 512_000_000, 512.0)]
)
def test_peak_memory_knows_the_platform_s_unit(
    monkeypatch: pytest.MonkeyPatch, platform: str, peak: int, expected_mb: float
) -> None:
    import resource

    monkeypatch.setattr(monitor_module.Path, "read_text", lambda _path: "")  # no /proc

    class Usage:
        ru_maxrss = peak

    monkeypatch.setattr(resource, "getrusage", lambda _who: Usage)
    monkeypatch.setattr(monitor_module.sys, "platform", platform)
    assert peak_memory_mb("mps") == expected_mb


def test_peak_memory_is_no_number_where_the_platform_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(monitor_module.Path, "read_text", lambda _path: "")
    assert math.isnan(peak_memory_mb("cpu"))


def test_peak_memory_of_a_cuda_device_is_that_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3_000_000)
    assert peak_memory_mb("cuda") == 3.0

"""Processors, GPUs, codecs, weights and disk space: what is short or missing is said with its remedy."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import weights
from pipelines import Finding
from pipelines.config import ALIGNED_SIZE_PX, DEFAULT_CHECKPOINT, ExtractConfig
from pipelines.diagnosis import disk, machine
from pipelines.diagnosis.weights import check_cache, check_weights
from pipelines.errors import ConfigError
from pipelines.system.image_files import encode_image
from pipelines.video import open_video
from tests.support import make_noise
from tests.synthetic import write_video

GIGABYTE = 1_000_000_000
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with a long and a short video, a picture, and one that does not open."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    write_video(folder / "long.mp4", num_frames=ExtractConfig.frames + 8, size=(64, 48))
    write_video(folder / "short.mp4", num_frames=3, size=(96, 64), rotation=90)
    (folder / "picture.png").write_bytes(make_noise(0, size_px=50))
    (folder / "notes.mp4").write_text("no video")
    return folder


@pytest.mark.parametrize(
    ("files", "threads", "level", "remedy"),
    [
        ({"cpu.max": "150000 100000\n"}, 4, "note", "export OMP_NUM_THREADS=2"),
        ({"cpu.max": "max 100000\n"}, 4, "ok", None),
        (
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
            "note",
            "export OMP_NUM_THREADS=1",
        ),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2, "ok", None),
        ({}, 4, "ok", None),
        ({}, 5, "note", "export OMP_NUM_THREADS=4"),
    ],
)
def test_more_threads_than_a_container_may_use_are_noted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    threads: int,
    level: str,
    remedy: str | None,
) -> None:
    monkeypatch.setattr(machine, "bound_cores", lambda: 4)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    facts: dict[str, Any] = {"threads": threads, "gpus": [], "cuda_build": None, "warnings": []}
    cpu, _gpu = machine.report_devices(facts, cgroup=tmp_path)
    assert (cpu.level, cpu.remedy) == (level, remedy)


def test_a_gpu_is_ok_or_missing_or_does_not_compute() -> None:
    facts: dict[str, Any] = {"threads": 1, "gpus": [], "cuda_build": None, "warnings": []}
    _cpu, missing = machine.report_devices(facts)
    assert missing.level == "note" and "this torch has no CUDA" in missing.message
    _cpu, old_driver = machine.report_devices({**facts, "cuda_build": "13", "warnings": ["driver too old"]})
    assert old_driver.level == "note" and "driver too old" in old_driver.message
    gpus = [
        {"device": "cuda:0", "name": "A", "error": None},
        {"device": "cuda:1", "name": "B", "error": "no kernel image"},
    ]
    _cpu, good, bad = machine.report_devices({**facts, "gpus": gpus})
    assert (good.level, good.message) == ("ok", "cuda:0: A")
    assert bad.level == "broken" and "no kernel image" in bad.message and "--device cpu" in str(bad.remedy)


def test_codecs_that_are_missing_are_a_note() -> None:
    (finding,) = machine.report_codecs({"ffmpeg": "8", "there": ["h264", "vp9"]})
    assert finding.level == "note"
    assert finding.message == "FFmpeg 8 decodes h264, vp9; not hevc, av1, mpeg4, mjpeg, prores"


def test_damaged_weights_are_broken_and_pulled_ones_only_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPFAKE_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "embedded_path", lambda entry: _write(tmp_path / "embedded", b"damaged"))
    pulled = next(entry for entry in weights.REGISTRY.values() if entry.url)
    pull = f"deepfake weights pull {pulled.name}"
    assert _weights_findings()[pulled.name].remedy == pull
    _write(tmp_path / "weights" / f"{pulled.name}.zip", b"other bytes")
    findings = _weights_findings()
    for name, level, remedy in (
        (DEFAULT_CHECKPOINT, "broken", "install deepfake again"),
        (pulled.name, "note", pull),
    ):
        assert (findings[name].level, findings[name].remedy) == (level, remedy)
        assert "is damaged" in findings[name].message and remedy not in findings[name].message
    (cache,) = check_cache()
    assert cache.message == f"{tmp_path}: embedded 0.0 MB, weights/{pulled.name}.zip 0.0 MB"


def test_whole_weights_are_named_with_their_digest() -> None:
    finding = _weights_findings()[DEFAULT_CHECKPOINT]
    assert finding == Finding(
        "weights", "ok", f"{DEFAULT_CHECKPOINT} {weights.REGISTRY[DEFAULT_CHECKPOINT].sha256[:12]}"
    )


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def _weights_findings() -> dict[str, Finding]:
    return dict(zip(weights.REGISTRY, check_weights(), strict=True))


def test_a_job_is_estimated_from_the_headers_of_its_inputs(inputs: Path) -> None:
    estimate = disk.estimate_job([inputs])
    num_frames = ExtractConfig.frames + 3 + 1
    assert (estimate.num_videos, estimate.num_unknown, estimate.num_frames) == (3, 1, num_frames)
    pixels = ExtractConfig.frames * 64 * 48 + 3 * 96 * 64 + 50 * 50
    assert estimate.frame_bytes == pytest.approx(1.5 * pixels)
    assert estimate.num_bytes == pytest.approx(1.5 * pixels + 1.5 * num_frames * ALIGNED_SIZE_PX**2)


def test_the_estimate_is_above_what_a_noisy_clip_takes_and_not_far(clip: Path) -> None:
    with open_video(clip) as video:
        images = [frame.image for frame in video.frames([0, 37, 74])]
    written = sum(len(encode_image(image, ".png")) for image in images) / sum(image[..., 0].size for image in images)
    assert 0.8 * disk.BYTES_PER_PIXEL < written < disk.BYTES_PER_PIXEL


@pytest.mark.parametrize(
    ("free", "named", "level", "message"),
    [
        (26 * GIGABYTE, False, "ok", "26.0 GB free in "),
        (GIGABYTE // 2, False, "note", "only 0.5 GB free in "),
        (
            GIGABYTE // 2,
            True,
            "ok",
            "36 frames of 3 videos and their faces need about 0.0 GB (1 other input cannot be opened)",
        ),
        (7_000_000, True, "broken", "0.0 GB free in "),
    ],
)
def test_free_space_is_compared_with_what_a_job_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: Path, free: int, named: bool, level: str, message: str
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(folder) or Usage(0, 0, free))
    (finding,) = disk.check_workspace([inputs] if named else [], tmp_path / "not" / "there yet")
    assert (finding.level, asked) == (level, [tmp_path])
    assert message in finding.message
    assert (finding.remedy is None) == (level == "ok")


def test_what_lies_in_the_workspace_is_no_input_of_the_job(inputs: Path) -> None:
    (inputs / "work").mkdir()
    write_video(inputs / "work" / "made.mp4", num_frames=3)
    assert disk.estimate_job([inputs], inputs / "work").num_videos == 3


def test_a_job_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no videos found"):
        disk.estimate_job([tmp_path])


def test_a_workspace_or_temporary_folder_that_can_not_be_written_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disk.check_temporary()[0].level == "ok"
    monkeypatch.setattr(os, "access", lambda _path, mode: mode != os.W_OK)
    (finding,) = disk.check_workspace([], tmp_path)
    assert finding.level == "broken" and "cannot be written" in finding.message

    def no_space() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", no_space)
    (finding,) = disk.check_temporary()
    assert finding.level == "broken" and "No space left" in finding.message and "TMPDIR" in str(finding.remedy)

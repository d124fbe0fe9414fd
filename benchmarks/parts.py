"""Single parts: one network, one decoder, memory, resume, two workers. Each function is measured in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch

from benchmarks.naive import NaivePipeline
from benchmarks.networks import INPUT_PX, MAX_SIDE_PX, make_b4, make_resnet50, save_b4
from benchmarks.ours import Embedded, decode, make_scorer
from pipelines import ExtractConfig, extract_frames
from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.engines.engine import load_engine
from pipelines.video import open_video
from pipelines.workspace.inputs import find_inputs

FACES = 16
FRAMES = 4
FINISHED_VIDEOS = 6000
CLIPS = 16
MINUTES = (1, 10, 60)
GOP_SECONDS = 10


def best_seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The least of some times, after one to warm up: what the machine can do undisturbed."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def detectors(_: Path) -> dict[str, float]:
    """Frames per second of RetinaFace on ResNet-50, of 1080p frames with a long side of 960 px for the network."""
    frames = [np.random.default_rng(n).integers(0, 256, (1080, 1920, 3), dtype=np.uint8) for n in range(FRAMES)]
    naive = NaivePipeline().detector
    rates = {"predict_jsons": FRAMES / best_seconds(lambda: [naive.predict_jsons(frame) for frame in frames], 1)}
    for precision in ("float32", "bf16"):
        detector = make_resnet50(MAX_SIDE_PX, precision)
        rates[precision] = FRAMES / best_seconds(lambda detector=detector: detector.detect(frames))
    return rates


def classifiers(folder: Path) -> dict[str, float]:
    """Faces per second of B4 by engine and precision, and of the embedded classifier."""
    faces = [np.random.default_rng(n).integers(0, 256, (INPUT_PX, INPUT_PX, 3), dtype=np.uint8) for n in range(FACES)]
    naive = NaivePipeline()
    rates = {"B4 naive": 4 / best_seconds(lambda: [naive.classify(face) for face in faces[:4]], 2)}
    checkpoint, cpu = str(save_b4(folder / "b4.safetensors")), torch.device("cpu")
    combinations = (
        ("torch", "float32"),
        ("torch", "bf16"),
        ("onnxruntime", "float32"),
        ("openvino", "float32"),
        ("openvino", "bf16"),
    )
    for engine, precision in combinations:
        loaded: Any = load_engine(engine, precision, checkpoint=checkpoint, contract=Preprocessing(), device=cpu)  # type: ignore[arg-type]
        rates[f"B4 {engine} {precision}"] = FACES / best_seconds(
            lambda loaded=loaded: [loaded.classify(faces[start : start + 8]) for start in (0, 8)], 2
        )
    for engine, precision in combinations:
        scorer = make_scorer(precision, engine)  # type: ignore[arg-type]
        size = scorer.contract.input_size
        small = [np.ascontiguousarray(face[:size, :size]) for face in faces]
        rates[f"embedded {engine} {precision}"] = FACES / best_seconds(
            lambda scorer=scorer, small=small: [scorer.classify(small[start : start + 8]) for start in (0, 8)]
        )
    return rates


def decoders(clip: Path) -> dict[str, float]:
    """Seconds to decode the sampled frames of a clip, against all of its frames in order with nothing else done."""

    def bare() -> None:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for _ in container.decode(stream):
                pass

    contract = make_scorer().contract
    return {"bare": best_seconds(bare), "sampled": best_seconds(lambda: decode(clip, contract))}


def limits(clip: Path) -> dict[str, float]:
    """What the machine could do: operations of large matrix products, bytes copied; and what the networks and the decoder do."""
    from torch.utils.flop_counter import FlopCounterMode

    values: dict[str, float] = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
        values[f"matmul {name} GFLOP/s"] = 2 * 2048**3 / best_seconds(lambda a=a, b=b: a @ b) / 1e9
    source, target = np.ones(1 << 28, np.uint8), np.empty(1 << 28, np.uint8)
    values["copy GB/s"] = source.nbytes / best_seconds(lambda: np.copyto(target, source)) / 1e9
    scorer = make_scorer()
    assert scorer.face_detector
    size = scorer.contract.input_size
    networks = (
        ("B4", make_b4(), torch.zeros(1, 3, INPUT_PX, INPUT_PX)),
        ("embedded classifier", scorer.engine.network, torch.zeros(1, 3, size, size)),  # type: ignore[attr-defined]
        ("ResNet-50 detector", make_resnet50(MAX_SIDE_PX, "float32").network, torch.zeros(1, 3, 540, 960)),
        ("embedded detector", scorer.face_detector.network, torch.zeros(1, 3, 540, 960)),
    )
    for name, network, example in networks:
        batch = example.expand(4, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            network.to(memory_format=torch.channels_last)
            with FlopCounterMode(display=False) as counter:
                network(example)
            values[f"{name} GFLOP"] = counter.get_total_flops() / 1e9
            values[f"{name} seconds"] = best_seconds(lambda network=network, batch=batch: network(batch)) / 4
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        values["frame bytes"] = stream.width * stream.height * 1.5
        values["frames"] = stream.frames
    return values


def workers(clip: Path) -> dict[str, float]:
    """Seconds of `predict` on copies of a clip: two workers, one, and one bound to one core; start-up included."""
    seconds = {}
    folder = clip.parent / "copies"
    folder.mkdir(exist_ok=True)
    for number in range(CLIPS):  # bytes after the end make another content of the same video
        (folder / f"{number:02}.mp4").write_bytes(clip.read_bytes() + bytes([number]))
    for name, count, cores in (("two", 2, None), ("one", 1, None), ("one on one core", 1, {0})):
        output = folder / f"{name}.csv"
        command = [sys.executable, "-m", "deepfake_cli", "predict", str(folder), "-o", str(output), "-q", "--overwrite"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--workers", str(count)],
            preexec_fn=(lambda cores=cores: os.sched_setaffinity(0, cores)) if cores else None,  # type: ignore[misc]
        )
        if process.wait():
            raise RuntimeError(f"predict ended with {process.returncode}")
        seconds[name] = time.perf_counter() - started
    return seconds


def clips(folder: Path) -> dict[str, Any]:
    """Each clip of a folder with the embedded networks: seconds of the stages, size and length."""
    pipeline, found = Embedded(), {}
    for file in find_inputs([folder]).files:
        with open_video(file.path) as reader:
            info = reader.info
        runs = [pipeline.run(file.path, None) for _ in range(3)]
        median = {stage: float(np.median([run[stage] for run in runs])) for stage in runs[0]}
        size = f"{info.width_px}x{info.height_px}, {info.duration_seconds:.0f} s"
        found[file.path.name] = median | {"size": size, "length": info.duration_seconds}
    return found


def memory(folder: Path) -> dict[str, float]:
    """Peak memory of `predict`, MB, on synthetic 1080p videos of some lengths."""
    peaks = {}
    for minutes in MINUTES:
        video = write_long_video(folder / f"{minutes}.mp4", minutes)
        process = subprocess.Popen(
            [sys.executable, "-m", "deepfake_cli", "predict", str(video), "-q", "--json"], stdout=subprocess.DEVNULL
        )
        peaks[f"{minutes} min"] = _peak_mb(process)
        video.unlink()
    return peaks


def _peak_mb(process: subprocess.Popen[bytes]) -> float:
    """Of the largest process of the tree."""
    peak = 0.0
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            for each in (parent, *parent.children(recursive=True)):
                peak = max(peak, each.memory_info().rss / 2**20)
        except psutil.Error:
            pass
        time.sleep(0.02)
    return peak


def write_long_video(path: Path, minutes: int) -> Path:
    """1080p at 30 Hz: ten seconds are encoded, and their packets repeated with later times."""
    rng = np.random.default_rng(0)
    background = np.asarray(rng.integers(0, 256, (68, 120, 3)), np.uint8).repeat(16, 0).repeat(16, 1)[:1080]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": str(30 * GOP_SECONDS)})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.codec_context.max_b_frames = 0
        packets = []
        for number in range(30 * GOP_SECONDS):
            packets += stream.encode(
                av.VideoFrame.from_ndarray(np.roll(background, 8 * number, axis=1), format="rgb24")
            )
        packets += stream.encode(None)
        contents = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(30 * 60 * minutes):
            content, is_key = contents[number % len(contents)]
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 30)
            packet.pts = packet.dts = number
            packet.is_keyframe = is_key
            container.mux(packet)
    return path


def resume(folder: Path) -> dict[str, float]:
    """Seconds that `extract-frames` takes to find 6,000 videos finished."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    import cv2

    for number in range(FINISHED_VIDEOS):
        picture = np.frombuffer(number.to_bytes(3, "little") * 64, np.uint8).reshape(8, 8, 3)
        cv2.imwrite(str(videos / f"{number:05}.png"), picture)
    config = ExtractConfig(frames=1)
    extract_frames([videos], folder / "work", config)
    started = time.perf_counter()
    summary = extract_frames([videos], folder / "work", config)
    assert summary.skipped == FINISHED_VIDEOS
    return {"seconds": time.perf_counter() - started}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "clips": clips,
    "detectors": detectors,
    "classifiers": classifiers,
    "decoders": decoders,
    "limits": limits,
    "workers": workers,
    "memory": memory,
    "resume": resume,
}
OF_A_CLIP = ("decoders", "limits", "workers")

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](Path(sys.argv[2]))))

"""Reads files in worker processes, within limits, and gives a verdict for each.

What counts as wrong, if the reader gives no warning: one of the clip's own pictures that comes out of order, or neither
at its place nor at its time, although it could be known. It could not be known where FFmpeg, asked to be strict, decodes
the whole file from its beginning to just these frames and reports nothing: then the file itself says so, or a codec
without checksums took changed bits for a picture. A picture that is none of the clip's own is damaged, and counted too;
so are pictures in their order, but too early, in a container that does not time them.
"""

from __future__ import annotations

import enum
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
import psutil
from numpy.typing import NDArray

from pipelines.errors import UnreadableError
from pipelines.system.worker_pool import Limits, Lost, WorkerPool
from pipelines.video import Frame, open_video
from pipelines.video.frames import ChosenFrames
from tests.hostile.corpus import Entry, find_entry
from tests.hostile.mutations import REARRANGING, Mutation, make_mutation
from tests.synthetic import read_number

NUM_CHOSEN = 32
"""More than any clip has, so that all frames are read."""
SAME_PICTURE = 3.0
"""Mean difference in grey levels from the clip's own picture: the next one differs by 10 or more."""
UNTIMED = (".avi", ".mpg", ".h264", ".mjpeg")
"""Containers without a time for every frame: after a loss the following frames move up, and times do not show it."""
BATCH_FILES = 40
BATCH_SECONDS = 60.0
FILE_SECONDS = 20.0
MEMORY_MB = 3072
"""Several times the memory of the largest picture that is not refused."""


class Verdict(enum.StrEnum):
    """Verdict on one file, best first."""

    RIGHT = "right"
    FEWER = "right, fewer frames"
    WARNED = "warned"
    UNREADABLE = "unreadable, named error"
    DAMAGED = "damaged picture"
    MOVED = "moved up, untimed container"
    UNKNOWABLE = "other picture, undetectable"
    WRONG = "WRONG FRAME"
    UNNAMED = "UNNAMED ERROR"
    MEMORY = "MEMORY"
    HANG = "HANG"
    CRASH = "CRASH"


FORBIDDEN = (Verdict.WRONG, Verdict.UNNAMED, Verdict.MEMORY, Verdict.HANG, Verdict.CRASH)


@dataclass(frozen=True)
class Outcome:
    """One file's verdict."""

    number: int
    origin: str
    kind: str
    verdict: Verdict
    detail: str = ""
    peak_mb: float = 0.0
    """Peak memory of the process beyond what it had before."""
    seconds: float = 0.0


def try_mutations(corpus: Mapping[str, Path], seed: int, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Outcomes of damaged copies. If a batch loses its process, its files are tried again one by one."""
    numbers = list(numbers)
    batches = [numbers[start : start + BATCH_FILES] for start in range(0, len(numbers), BATCH_FILES)]
    make_work = partial(_make_work, dict(corpus), seed)
    suspects: list[int] = []
    pool = WorkerPool[list[int], list[Outcome]](make_work, 1, Limits(seconds=BATCH_SECONDS, memory_mb=MEMORY_MB))
    for place, result in pool.run(batches):
        if isinstance(result, Lost):
            suspects += batches[place]
        else:
            yield from result
    alone = WorkerPool[list[int], list[Outcome]](make_work, 1, Limits(seconds=FILE_SECONDS, memory_mb=MEMORY_MB))
    for place, result in alone.run([[number] for number in suspects]):
        if isinstance(result, Lost):
            mutation = make_mutation(corpus, seed, suspects[place])
            yield Outcome(mutation.number, mutation.origin, mutation.kind, name_loss(result.reason), result.reason)
        else:
            yield from result


def judge(path: Path, clip: Path, entry: Entry, *, is_rearranged: bool = False) -> tuple[Verdict, str]:
    """Read all frames of a file that was made from this clip, and compare them with the clip's own.

    `is_rearranged`: whole parts of the file were doubled or exchanged, so its frames may well be out of order.
    """
    try:
        with open_video(path) as reader:
            chosen = ChosenFrames(reader, path, count=NUM_CHOSEN)
            frames = list(chosen)
    except UnreadableError as error:
        return Verdict.UNREADABLE, str(error)
    own = read_clip(clip)
    verdict, detail = judge_frames(frames, own, entry)
    if chosen.note:
        return Verdict.WARNED, f"{chosen.note}: {detail}"
    if verdict in (Verdict.WRONG, Verdict.MOVED) and _decode_plainly(
        path, own, is_strict=not is_rearranged
    ) == _numbers(frames, own):
        verdict = Verdict.UNKNOWABLE
    return verdict, detail


def judge_frames(frames: Sequence[Frame], own: Sequence[Frame], entry: Entry) -> tuple[Verdict, str]:
    """Whether these frames are the clip's own ones, in order, at their places or times."""
    numbers = _numbers(frames, own)
    known = [number for number in numbers if number is not None]
    detail = f"{numbers} at {[round(frame.pts_seconds, 3) for frame in frames]}"
    if any(later <= earlier for earlier, later in zip(known, known[1:], strict=False)):
        return Verdict.WRONG, detail
    if any(_is_moved(*pair, own) for pair in zip(frames, numbers, strict=True)):
        return (Verdict.MOVED if entry.name.endswith(UNTIMED) else Verdict.WRONG), detail
    if len(known) < len(numbers):
        return Verdict.DAMAGED, detail
    return (Verdict.RIGHT if len(frames) == entry.num_frames else Verdict.FEWER), detail


@cache
def read_clip(clip: Path) -> tuple[Frame, ...]:
    """All frames of an undamaged clip; `test_corpus.py` sees to it that they are right."""
    with open_video(clip) as video:
        return tuple(video.frames(range(video.info.num_frames)))


def _decode_plainly(path: Path, own: Sequence[Frame], *, is_strict: bool) -> list[int | None] | None:
    """Which frames FFmpeg decodes from the file's beginning to its end, or None if it reports any damage."""
    found = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"} if is_strict else {}
            for picture in container.decode(stream):
                if picture.is_corrupt:
                    return None
                upright = np.rot90(picture.to_ndarray(format="rgb24"), k=picture.rotation // 90)
                found.append(_recognise(upright, own))
    except (av.FFmpegError, ValueError):
        return None
    return found


def _numbers(frames: Sequence[Frame], own: Sequence[Frame]) -> list[int | None]:
    return [_recognise(frame.image, own) for frame in frames]


def _recognise(image: NDArray[np.uint8], own: Sequence[Frame]) -> int | None:
    """Which of the clip's frames this is, or None for none of them."""
    if image.shape != own[0].image.shape:
        return None
    number = read_number(image)
    if number >= len(own):
        return None
    difference = np.abs(image.astype(np.int16) - own[number].image).mean()
    return number if difference < SAME_PICTURE else None


def _is_moved(frame: Frame, number: int | None, own: Sequence[Frame]) -> bool:
    """Whether a frame is neither at its place nor at its time."""
    if number is None or number == frame.index:
        return False
    nearest = min(own, key=lambda other: abs(other.pts_seconds - frame.pts_seconds))
    return nearest.index != number


def _make_work(corpus: dict[str, Path], seed: int) -> partial[list[Outcome]]:
    """What a worker process applies to each batch; its files lie in a folder that ends with it."""
    return partial(_try_batch, corpus, seed)


def _try_batch(corpus: dict[str, Path], seed: int, numbers: list[int]) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        return [_try_one(make_mutation(corpus, seed, number), corpus, Path(folder)) for number in numbers]


def _try_one(mutation: Mutation, corpus: Mapping[str, Path], folder: Path) -> Outcome:
    path = folder / mutation.name
    path.write_bytes(mutation.data)
    before, begin = reset_peak_mb(), time.perf_counter()
    try:
        clip, entry = corpus[mutation.origin], find_entry(mutation.origin)
        verdict, detail = judge(path, clip, entry, is_rearranged=mutation.kind in REARRANGING)
    except Exception as error:  # a bug, which the table has to show
        verdict, detail = Verdict.UNNAMED, repr(error)
    seconds, peak = time.perf_counter() - begin, peak_mb() - before
    path.unlink()
    return Outcome(mutation.number, mutation.origin, mutation.kind, verdict, detail, round(peak, 1), round(seconds, 3))


def reset_peak_mb() -> float:
    """Reset the peak memory of this process (Linux only); returns its memory now, in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system
        pass
    return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20


def peak_mb() -> float:
    """The peak memory of this process since then, in MiB; outside Linux its memory now."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def name_loss(reason: str) -> Verdict:
    """Why a process was lost, from the reason given by `WorkerPool`."""
    if "--timeout" in reason:
        return Verdict.HANG
    return Verdict.MEMORY if "--max-memory" in reason else Verdict.CRASH

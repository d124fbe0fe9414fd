"""Scores of many videos: each content once, in this process or in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import RunOptions
from pipelines.records import VideoRow
from pipelines.scoring.settings import Settings
from pipelines.scoring.video_score import StoredFaces, VideoScore
from pipelines.system.worker_pool import Limits, Lost, WorkerPool, choose_count

if TYPE_CHECKING:
    from pipelines.scoring.detector import Detector

Source = Path | StoredFaces


def score_each_content(
    videos: Sequence[VideoRow],
    make_source: Callable[[VideoRow], Source],
    settings: Settings,
    options: RunOptions,
    load: Callable[[], Detector] | None = None,
) -> Generator[tuple[list[int], VideoScore], None, None]:
    """A score with the places of all videos that it holds for, as they are done, in any order.

    Copies of a content are scored once. A video that an earlier step could not read keeps its status.

    Args:
        load: gives the detector where this process does the work; None loads one for the first video.

    Raises:
        DeepfakeError: the networks cannot be loaded; see also `WorkerPool.run`.
    """
    load = load or cache(partial(load_detector, settings, options))
    waiting: dict[str, list[int]] = {}
    for place, video in enumerate(videos):
        if video.status in ("ok", "no_face"):
            waiting.setdefault(video.sha256, []).append(place)
        else:
            yield [place], VideoScore(video.status, error=video.error)
    while waiting:
        copies, waiting = list(waiting.items()), {}
        sources = [make_source(videos[places[0]]) for _, places in copies]
        with closing(_score_sources(sources, settings, options, load)) as scores:
            for index, score in scores:
                sha256, places = copies[index]
                if score.status == "unreadable" and places[1:]:  # its copy elsewhere may be readable
                    places, waiting[sha256] = places[:1], places[1:]
                yield places, score


def video_path(video: VideoRow) -> Path:
    """The source of a video that is scored from its file."""
    return Path(video.path)


def load_detector(settings: Settings, options: RunOptions) -> Detector:
    """The detector; torch is imported here, so a process that only hands out videos never does."""
    from pipelines.scoring.detector import Detector

    return Detector.from_settings(settings, options)


def _score_sources(
    sources: Sequence[Source], settings: Settings, options: RunOptions, load: Callable[[], Detector]
) -> Generator[tuple[int, VideoScore], None, None]:
    if not options.uses_processes:
        for place, source in enumerate(sources):
            yield place, load().score(source)
        return
    count = choose_count(options.workers, len(sources), options.device)
    limits = Limits(options.timeout_seconds, options.max_memory_mb)
    pool = WorkerPool[Source, VideoScore](partial(_make_work, settings, options), count, limits)
    with closing(pool.run(sources)) as results:
        for place, result in results:
            yield place, VideoScore("failed", error=result.reason) if isinstance(result, Lost) else result


def _make_work(settings: Settings, options: RunOptions) -> Callable[[Source], VideoScore]:
    return load_detector(settings, options).score

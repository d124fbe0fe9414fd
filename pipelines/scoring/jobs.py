"""What `predict` does to one video, as jobs that can be worked on in another process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import RunOptions
from pipelines.errors import ConfigError, DeepfakeError, StorageError, UnreadableError, describe_failure
from pipelines.records import FaceRow
from pipelines.scoring.settings import Settings
from pipelines.scoring.video_score import VideoScore
from pipelines.system.worker_pool import Limits, Lost, WorkerPool, choose_count

if TYPE_CHECKING:
    from pipelines.scoring.video_scorer import VideoScorer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoJob:
    """A video or image to decode, to look for faces in and to classify."""

    path: Path

    def work(self, scorer: VideoScorer) -> VideoScore:
        return scorer.score_video(self.path)


@dataclass(frozen=True)
class CropsJob:
    """The stored crops of one video."""

    path: Path
    """Of the video: for messages."""
    folder: Path
    """Where the crops lie."""
    rows: tuple[FaceRow, ...]
    num_frames: int
    note: str | None
    """What an earlier stage had to say of the video."""

    def work(self, scorer: VideoScorer) -> VideoScore:
        return replace(scorer.score_crops(self.folder, self.rows, self.num_frames), error=self.note)


Job = VideoJob | CropsJob


class Scoring:
    """Scores jobs, in this process or in others."""

    def __init__(self, settings: Settings, options: RunOptions) -> None:
        self.settings = settings
        self.options = options
        self._worker = Worker(settings, options)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, VideoScore]]:
        """The place of each job with its score, as they are done: in processes of their own where the options say so.

        Raises:
            DeepfakeError: the networks can not be loaded; see also `WorkerPool.run`.
        """
        if not self.options.isolate:
            for place, job in enumerate(jobs):
                yield place, self._worker(job)
            return
        count = choose_count(self.options.workers, len(jobs), self.options.device)
        limits = Limits(self.options.timeout_seconds, self.options.max_memory_mb)
        pool = WorkerPool[Job, VideoScore](partial(_load, self.settings, self.options), count, limits)
        with closing(pool.run(jobs)) as results:
            for place, result in results:
                yield place, VideoScore("failed", error=result.reason) if isinstance(result, Lost) else result


def _load(settings: Settings, options: RunOptions) -> Worker:
    worker = Worker(settings, options)
    _ = worker.scorer  # now, and not in the time of the first job
    return worker


@dataclass
class Worker:
    """Scores one job after another; loads the networks when the first one needs them."""

    settings: Settings
    options: RunOptions

    def __call__(self, job: Job) -> VideoScore:
        """The score, or the status that says why there is none.

        Raises:
            ConfigError, StorageError, CheckpointError: no job would fare better.
        """
        scorer = self.scorer
        try:
            return job.work(scorer)
        except (ConfigError, StorageError):
            raise
        except UnreadableError as error:
            return VideoScore("unreadable", error=str(error))
        except DeepfakeError as error:
            return VideoScore("failed", error=str(error))
        except Exception as error:  # one strange file must not end a run of thousands; the traceback goes to the log
            log.exception("predict failed on %s", job.path)
            return VideoScore("failed", error=describe_failure(error))

    @cached_property
    def scorer(self) -> VideoScorer:
        from pipelines.scoring.video_scorer import VideoScorer

        return VideoScorer(
            checkpoint=self.settings.config.checkpoint,
            detector=None if self.settings.faces else self.settings.detector,
            contract=self.settings.contract,
            decoder=self.settings.config.decoder,
            min_face_px=self.settings.config.min_face_px,
            engine=self.settings.config.engine,
            precision=self.settings.config.precision,
            options=self.options,
        )

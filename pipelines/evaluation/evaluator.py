"""From the scores and labels of all sources to a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.config import Aggregate, EvaluateConfig
from pipelines.evaluation.bootstrap import Estimate
from pipelines.evaluation.joining import join, merge, name_sources
from pipelines.evaluation.localisation import FoundFaces, MapKind, measure_localisation
from pipelines.evaluation.measuring import Bootstrap, Section, measure_sections, measure_whole
from pipelines.evaluation.perturbations import Perturbation
from pipelines.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    ScoredFrames,
    aggregate_videos,
    apply_protocol,
    frames_of,
)
from pipelines.evaluation.report import Report, RobustnessRow
from pipelines.evaluation.scores import RawScores, Scored, Source

DEFAULT_AGGREGATE: Aggregate = "max-track"
FEW_GROUPS = 20


@dataclass(frozen=True)
class Evaluator:
    """Measures the sources of one call: once as they were scored, then once per perturbation."""

    config: EvaluateConfig
    sources: Sequence[Source]

    @property
    def protocol(self) -> Protocol | None:
        return PROTOCOLS[self.config.protocol] if self.config.protocol else None

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.config.bootstrap, self.config.confidence, self.config.seed)

    def prepare(self, raws: Sequence[RawScores]) -> tuple[Scored, ScoredFrames | None]:
        """Scores of videos and of frames, joined with their labels."""
        pairs = zip(raws, self.sources, strict=True)
        scored = merge(
            [self._with_video_scores(join(raw, source.labelled, source.split), raw) for raw, source in pairs]
        )
        if scored.faces is None:
            return scored, None
        if self.protocol:
            return apply_protocol(scored, self.protocol)
        return scored, frames_of(scored.faces, "most-suspicious", None)

    def _with_video_scores(self, scored: Scored, raw: RawScores) -> Scored:
        """Score videos from their faces as `predict` does, if only the faces have scores."""
        fit = raw.calibration
        if self.protocol and fit:  # the calibration was not fitted to means of frames
            return replace(scored, videos=replace(scored.videos, threshold=None))
        if self.protocol or scored.faces is None or not np.isnan(raw.probabilities).all():
            return scored
        aggregate = self._aggregate_of(raw)
        scored = aggregate_videos(scored, aggregate)
        if fit is None:
            return scored
        if fit.aggregate != aggregate:
            return replace(scored, videos=replace(scored.videos, threshold=None))
        return replace(scored, videos=replace(scored.videos, probabilities=fit.apply(scored.videos.probabilities)))

    def measure(self) -> tuple[Report, Scored, ScoredFrames | None]:
        """The report, with the scores that it describes."""
        scored, frames = self.prepare([source.raw for source in self.sources])
        threshold = scored.videos.threshold if self.config.threshold is None else self.config.threshold
        splits = {source.split for source in self.sources}
        report = Report(
            sources=self._names(),
            sections=measure_sections(
                scored.videos, frames, threshold, self.bootstrap, frame_threshold=self._frame_threshold(threshold)
            ),
            statuses=Counter(str(status) for status in scored.videos.statuses),
            split=", ".join(sorted(splits)),
            threshold=threshold,
            aggregate=self._describe_aggregate(),
            rounds=self.config.bootstrap,
            confidence=self.config.confidence,
            seed=self.config.seed,
            checkpoint=self._single("model"),
            checkpoint_sha256=self._single("model_sha256"),
            protocol=self.protocol,
            notes=self._notes(scored, frames),
        )
        return report, scored, frames

    def with_localisation(
        self, report: Report, scored: Scored, found: FoundFaces, kind: MapKind, size_px: int
    ) -> Report:
        """The report with how well forgeries were located on the compared faces."""
        located = measure_localisation(scored.videos, found, kind, size_px, self.bootstrap)
        return replace(report, localisation=located, notes=[*report.notes, *located.notes])

    def measure_auc(self, perturbation: Perturbation | None, raws: Sequence[RawScores]) -> RobustnessRow:
        """AUC of the same videos under a perturbation."""
        scored, frames = self.prepare(raws)
        whole = measure_whole(scored.videos, frames, self.bootstrap)
        return RobustnessRow(perturbation, _aucs(whole), len(scored.videos) - whole.videos_scored)

    def _aggregate_of(self, raw: RawScores) -> Aggregate:
        """How face scores become a video score, if this call does it."""
        return self.config.aggregate or raw.aggregate or DEFAULT_AGGREGATE  # type: ignore[return-value]

    def _describe_aggregate(self) -> str:
        if self.protocol:
            return "mean of the frames"
        raws = [source.raw for source in self.sources]
        known = {"as in the scores" if raw.faces is None else self._aggregate_of(raw) for raw in raws}
        return ", ".join(sorted(known))

    def _frame_threshold(self, threshold: float | None) -> float | None:
        """The stored threshold of a calibrated checkpoint does not apply to frames, which are never calibrated."""
        is_calibrated = any(source.raw.calibration for source in self.sources)
        return threshold if self.config.threshold is not None or not is_calibrated else None

    def _names(self) -> list[str]:
        """The names of the sources, with as much of their paths as makes them unique."""
        names = [source.raw.name for source in self.sources]
        return names if len(set(names)) == len(names) else name_sources([source.raw.path for source in self.sources])

    def _single(self, name: str) -> Any:
        """The value that all sources share, or None."""
        values = {getattr(source.raw, name) for source in self.sources}
        return values.pop() if len(values) == 1 else None

    def _notes(self, scored: Scored, frames: ScoredFrames | None) -> list[str]:
        notes = [source.raw.note for source in self.sources if source.raw.note]
        num_real, num_groups = int((scored.videos.labels == 0).sum()), len(np.unique(scored.videos.clusters))
        if num_groups < FEW_GROUPS and self.config.bootstrap:
            notes.append(
                f"intervals from {num_groups} groups are too narrow: so few groups hardly show how much others would differ"
            )
        if 0 < num_real < 1000:
            notes.append(
                f"with {num_real} real videos, 0.1 % false positives means none at all: the true positive rate there depends "
                "on the single most suspicious real video"
            )
        if any(source.raw.calibration for source in self.sources):
            what = "frames, and the protocol's means of frames," if self.protocol else "frames"
            notes.append(f"the checkpoint's calibration applies to videos only: {what} are measured without it")
        if self.protocol and frames is not None:
            counts = np.bincount(frames.videos, minlength=len(scored.videos))
            few = int(((counts > 0) & (counts < self.protocol.frames)).sum())
            if few:
                notes.append(f"{few} videos have fewer than the protocol's {self.protocol.frames} frames with a face")
        return notes


def _aucs(section: Section) -> dict[str, Estimate]:
    return {level: section.levels[level]["auc"] for level in ("video", "frame") if level in section.levels}

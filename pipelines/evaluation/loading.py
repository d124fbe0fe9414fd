"""From paths to scores with their labels: what is not scored yet is scored here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.config import PredictConfig, RunOptions
from pipelines.errors import ConfigError
from pipelines.evaluation.joining import choose_split
from pipelines.evaluation.scoring import imported, score_workspace
from pipelines.evaluation.sources import (
    LabelledVideo,
    RawScores,
    describe_row,
    kind_of,
    labels_from_folders,
    read_details,
    read_labelled,
    read_score_file,
)
from pipelines.system.progress import ProgressCallback
from pipelines.workspace.folder import open_upstream


@dataclass(frozen=True)
class Source:
    """Scores and the labels that may fit them."""

    raw: RawScores
    labelled: Sequence[LabelledVideo]
    split: str
    """Which of the labelled videos are meant; `all`, or a side."""
    workspace: Path | None = None
    """Where its faces lie, if they can be scored again."""
    scored_splits: Sequence[str] = ()
    """Of the workspace's videos only these were scored; none: all."""


@dataclass(frozen=True)
class Loader:
    """How sources are opened."""

    predict: PredictConfig
    """For what is not scored yet."""
    options: RunOptions
    labels: Path | None
    split: str | None
    default_split: str
    """Taken where the labels have it and `split` is None."""
    on_progress: ProgressCallback

    def open(self, path: Path, stack: ExitStack) -> Source:
        """Read a source, or score it; a temporary workspace lasts as long as the stack.

        Raises:
            ConfigError: it is none.
            DatasetError: nothing says what is real.
        """
        kind = kind_of(path)
        if kind == "crops":
            return self._score(stack.enter_context(imported(path, self.options, self.on_progress)), named=path)
        if kind == "workspace":
            return self._score(path, named=path)
        raw = read_details(path) if kind == "details" else read_score_file(path)
        if self.labels:
            raw = replace(raw, note=None)  # the labels say which videos there are
        labelled = read_labelled(self.labels) if self.labels else labels_from_folders(raw)
        return Source(raw, labelled, choose_split(labelled, self.split, self.default_split))

    def _score(self, workspace: Path, *, named: Path) -> Source:
        folder, _ = open_upstream(workspace, "detect-faces")
        videos = folder.read_videos()
        own = [describe_row(video) for video in videos]
        if not self.labels and not any(row.about.label for row in own):
            raise ConfigError(f"the videos of {workspace} have no labels; pass --labels with a CSV (video,label)")
        labelled = read_labelled(self.labels) if self.labels else own
        split = choose_split(labelled, self.split, self.default_split)
        # labels from elsewhere may name other splits than the workspace does
        splits = () if split == "all" or self.labels else (split,)
        raw = score_workspace(workspace, self.predict, self.options, splits=splits, on_progress=self.on_progress)
        return Source(replace(raw, path=named.absolute().as_posix()), labelled, split, workspace, splits)

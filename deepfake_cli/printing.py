"""How results read on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from deepfake_cli.errors import EXIT_INCOMPLETE

if TYPE_CHECKING:
    from pipelines.records import ScoreRow, VideoRow
    from pipelines.workspace.run_loop import StageSummary


def printable(text: str) -> str:
    """One line: control characters and undecodable bytes as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def file_name(path: str) -> str:
    return printable(path.rsplit("/", 1)[-1])


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 face`, `2 faces`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def format_score(row: ScoreRow) -> str:
    """`clip.mp4  0.913  fake  32 frames, 1 person`, or the status and its reason."""
    name = file_name(row.video)
    if row.fake_probability is None:
        reason = f"  {printable(row.error)}" if row.error else ""
        return f"{name}  {row.status}{reason}"
    people = count(row.tracks, "person", "people")
    note = f"  ({printable(row.error)})" if row.error else ""
    return f"{name}  {row.fake_probability:.3f}  {row.verdict}  {count(row.frames, 'frame')}, {people}{note}"


def finish_stage(summary: StageSummary, row_noun: str, *, quiet: bool) -> None:
    """Say what a stage did, name the failures, and exit 3 if there are any."""
    report_failures(summary.failures)
    if not quiet:
        statuses = Counter(video.status for video in summary.videos)
        outcome = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
        skipped = f", {summary.skipped} done before" if summary.skipped else ""
        ignored = f"; {count(summary.num_ignored, 'other file')} ignored" if summary.num_ignored else ""
        shard = f" {summary.shard}" if summary.shard else ""
        typer.echo(f"{summary.stage}{shard}: {count(len(summary.videos), 'video')} ({outcome}{skipped}), "
                   f"{count(summary.rows, row_noun)} in {summary.folder}{ignored}")  # fmt: skip
    if summary.failures:
        raise typer.Exit(EXIT_INCOMPLETE)


def report_failures(videos: Sequence[VideoRow]) -> None:
    for video in videos:
        typer.echo(f"{printable(video.path)}: {video.status}: {printable(video.error or '')}", err=True)

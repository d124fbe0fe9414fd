"""Results as text for a terminal."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from deepfake_cli import EXIT_INCOMPLETE

if TYPE_CHECKING:
    from pipelines.records import ScoreRow, VideoRow
    from pipelines.workspace.run_loop import StageSummary

COLOURS = {"fake": "red", "uncertain": "yellow", "real": "green"}
"""The colours of verdicts on a terminal."""


def printable(text: str) -> str:
    """One line: control characters and undecodable bytes as escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 face`, `2 faces`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def has_colours() -> bool:
    """Whether stdout is a terminal that shows colours; NO_COLOR (https://no-color.org) turns them off."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def video_name(row: ScoreRow) -> str:
    """The end of the video's path, with as many folders as its key, which distinguishes equal file names."""
    folders = row.video_key.count("/")
    return printable("/".join(row.video.split("/")[-folders - 1 :]))


def format_score(row: ScoreRow, *, colours: bool = False) -> str:
    """`clip.mp4  0.913  fake  32 frames, 1 person`, or the status and its reason."""
    name = video_name(row)
    if row.fake_probability is None:
        reason = f"  {printable(row.error)}" if row.error else ""
        return f"{name}  {row.status}{reason}"
    people = count(row.tracks, "person", "people")
    note = f"  ({printable(row.error)})" if row.error else ""
    verdict = typer.style(row.verdict, fg=COLOURS.get(str(row.verdict))) if colours else row.verdict
    return f"{name}  {row.fake_probability:.3f}  {verdict}  {count(row.frames, 'frame')}, {people}{note}"


def finish_stage(summary: StageSummary, row_noun: str, *, quiet: bool) -> None:
    """Print what a stage did and which videos failed; exit with code 3 if any did."""
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

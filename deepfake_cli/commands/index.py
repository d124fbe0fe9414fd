"""`deepfake index`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepfake_cli import EXIT_CHECK_FAILED, EXIT_INCOMPLETE
from deepfake_cli import options as opt
from deepfake_cli.printing import count, printable, report_failures
from deepfake_cli.progress import ProgressBar
from pipelines.config import IndexConfig, RunOptions, SplitChoice
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.datasets.checks import CheckReport, CheckResult
    from pipelines.stages.index import IndexSummary

WIDTH = 100
"""Columns at which the report's details wrap."""
FRACTIONS = ",".join(map(str, IndexConfig.fractions))


def index(
    dataset: Annotated[
        str | None, typer.Argument(metavar="DATASET", help="Name of the dataset; --download-help lists all.")
    ] = None,
    root: Annotated[
        Path | None, typer.Argument(metavar="ROOT", help="Its folder, as downloaded; for csv, the file.")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace", "-w", metavar="FOLDER", help="Workspace: the folder with the results of all stages."
        ),
    ] = None,
    split: Annotated[
        SplitChoice,
        typer.Option(
            metavar="SPLIT",
            help="auto: the official split, or an assigned one if there is none; deal: always assign; train, val, test or none: "
            "the same for all videos.",
        ),
    ] = IndexConfig.split,
    fractions: Annotated[
        str, typer.Option(metavar="A,B,C", help="Shares of train, val and test in an assigned split.")
    ] = FRACTIONS,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of an assigned split.")] = IndexConfig.seed,
    drop_leaks: Annotated[
        bool,
        typer.Option(
            "--drop-leaks", help="Remove videos from train and val that leak into the splits held out from them."
        ),
    ] = IndexConfig.drop_leaks,
    check: Annotated[
        bool, typer.Option("--check", help="Read every file and report counts, labels, duplicates and leaks.")
    ] = False,
    download_help: Annotated[
        bool, typer.Option("--download-help", help="Print where to request a dataset and how to arrange its files.")
    ] = False,
    workers: opt.Workers = RunOptions.workers,
    overwrite: opt.Overwrite = RunOptions.overwrite,
    verify: opt.Verify = RunOptions.verify,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
    log_file: opt.LogFile = None,
) -> None:
    """List a dataset's videos with labels and splits, for extract-frames, predict and evaluate."""
    opt.start_logging(quiet=quiet, verbose=verbose, log_file=log_file)
    if download_help:
        _print_download_help(dataset)
        return
    if dataset is None or root is None or workspace is None:
        raise ConfigError("pass a dataset's name, its folder and -w WORKSPACE; names: deepfake index --download-help")
    config = IndexConfig(split=split, fractions=_parse_fractions(fractions), seed=seed, drop_leaks=drop_leaks)
    from pipelines import index_dataset as run

    run_options = RunOptions(workers=workers, overwrite=overwrite, verify=verify)
    with ProgressBar(quiet=quiet) as bar:
        summary = run(dataset, root, workspace, config, run_options, check=check, on_progress=bar)
    report_failures(summary.failures)
    if summary.report is not None:
        _print_report(summary.report, quiet=quiet)
    if not quiet:
        _print_counts(summary)
    if summary.report is not None and summary.report.has_contradiction:
        raise typer.Exit(EXIT_CHECK_FAILED)
    if summary.report is not None and summary.report.is_incomplete:
        raise typer.Exit(EXIT_INCOMPLETE)


def _parse_fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--fractions takes three numbers such as {FRACTIONS}, got {text!r}") from error
    return train, val, test


def _print_download_help(name: str | None) -> None:
    from pipelines.datasets.table import DATASETS, find_dataset

    if name is None:
        width = max(map(len, DATASETS))
        for dataset in DATASETS.values():
            typer.echo(f"{dataset.name:<{width}}  {dataset.title}")
        return
    dataset = find_dataset(name)
    typer.echo(f"{dataset.title}\n\n{dataset.request.strip()}\n\n{textwrap.dedent(dataset.layout).strip()}")


def _print_report(report: CheckReport, *, quiet: bool) -> None:
    """One line per check, with its details below; only failed checks when quiet."""
    shown = [check for check in report.checks if not quiet or check.outcome != "ok"]
    if not shown:
        return
    name, expected, found = (
        max(map(len, column))
        for column in zip(
            ("check", "expected", "found"), *((each.name, each.expected, each.found) for each in shown), strict=True
        )
    )
    typer.echo(f"{'check':<{name}}  {'expected':>{expected}}  {'found':>{found}}  outcome")
    for check in shown:
        typer.echo(f"{check.name:<{name}}  {check.expected:>{expected}}  {check.found:>{found}}  {check.outcome}")
        _print_detail(check)


def _print_detail(check: CheckResult) -> None:
    indent = "    "
    for line in textwrap.wrap(
        printable(check.detail),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        typer.echo(line)


def _print_counts(summary: IndexSummary) -> None:
    """`train  720 real  2880 fake`, one line per split."""
    counts = {side or "no split": numbers for side, numbers in summary.counts.items()}
    width = max(map(len, counts))
    digits = max(len(str(number)) for numbers in counts.values() for number in numbers.values())
    for side, numbers in counts.items():
        shown = "  ".join(f"{number:>{digits}} {label}" for label, number in numbers.items())
        typer.echo(f"{side:<{width}}  {shown}")
    notes = [
        ", dealt" if summary.dealt else "",
        f", {summary.left_out} left out" if summary.left_out else "",
        f", {summary.dropped} dropped for leaks" if summary.dropped else "",
    ]
    typer.echo(f"index: {count(len(summary.videos), 'video')}{''.join(notes)} in {summary.folder}")

"""A long fuzz: `python -m tests.hostile --files 20000 --seed 7 --json out.json`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.hostile.corpus import write_corpus
from tests.hostile.outcomes import FORBIDDEN, Outcome, Verdict, try_mutations


def main(arguments: Sequence[str] | None = None) -> int:
    """Try damaged copies, print the table of outcomes; 1 if any of them is one that must not be."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="how many damaged copies")
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to see one again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every outcome there")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(options.first, options.first + options.files)
        outcomes = sorted(try_mutations(write_corpus(Path(folder)), options.seed, numbers), key=lambda one: one.number)
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    for title, group in (("damage", _kind_of), ("clip", _origin_of)):
        print(f"{make_table(outcomes, title, group)}\n")
    most = max(outcomes, key=lambda outcome: outcome.peak_mb)
    seconds = time.monotonic() - begin
    print(
        f"{len(outcomes)} files, seed {options.seed}, {seconds:.0f} s, at most {most.peak_mb:.0f} MiB ({most.number})"
    )
    bad = [outcome for outcome in outcomes if outcome.verdict in FORBIDDEN]
    for outcome in bad:
        print(f"{outcome.number} {outcome.origin} {outcome.kind}: {outcome.verdict}: {outcome.detail}", file=sys.stderr)
    return 1 if bad else 0


def make_table(outcomes: Sequence[Outcome], title: str, group: Callable[[Outcome], str]) -> str:
    """Markdown: how often each group of files met each verdict."""
    counts = {name: Counter[Verdict]() for name in sorted({group(outcome) for outcome in outcomes})}
    for outcome in outcomes:
        counts[group(outcome)][outcome.verdict] += 1
    rows = [[name, *(str(found[verdict]) for verdict in Verdict)] for name, found in counts.items()]
    total = Counter(outcome.verdict for outcome in outcomes)
    rows.append(["all", *(str(total[verdict]) for verdict in Verdict)])
    lines = [[title, *Verdict], ["---", *("---:" for _ in Verdict)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _kind_of(outcome: Outcome) -> str:
    return outcome.kind


def _origin_of(outcome: Outcome) -> str:
    return outcome.origin


if __name__ == "__main__":
    sys.exit(main())

"""`merge`: the scores of all shards in one file, as one run over everything would have written it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Shard
from pipelines.errors import ConfigError
from pipelines.records import FINISHED, ScoreRow
from pipelines.scoring.score_files import Journal, check_score_path, finished_scores, read_scores, write_scores
from pipelines.scoring.settings import DIGITS
from pipelines.scoring.shard_sidecar import ScoreNote, read_note, remove_note
from pipelines.workspace.shards import join_rows, name_missing


@dataclass(frozen=True)
class MergedScores:
    """The scores of all shards."""

    rows: list[ScoreRow]

    @property
    def failures(self) -> list[ScoreRow]:
        return [row for row in self.rows if row.status not in FINISHED]


def merge_scores(
    paths: Sequence[Path | str], output: Path | str, *, overwrite: bool = False, excel_safe: bool = False
) -> MergedScores:
    """Write the scores of all shards of one `predict` into one file, in the order of a run over everything.

    Args:
        paths: what `predict` has written for each shard, in any order and format, each with its note `<name>.shard` in
            the same folder.
        output: .csv, .parquet or .json.
        excel_safe: as for `predict`.

    Raises:
        ConfigError: a shard is missing or given twice, a file or its note is missing or changed, other weights, settings
            or inputs, or an output that holds something else.
    """
    files, output = [Path(path) for path in paths], Path(output)
    check_score_path(output, excel_safe=excel_safe)
    if not files:
        raise ConfigError("no scores to merge; name the file of every shard")
    if output.resolve() in [path.resolve() for path in files]:
        raise ConfigError(f"{output} is one of the shards; choose another output")
    notes = [read_note(path) for path in files]
    _check_shards(files, notes)
    _check_origin(files, notes)
    rows = join_rows([(note.share, read_scores(path)) for note, path in zip(notes, files, strict=True)])
    if not overwrite:  # an output of other settings or videos is refused as by `predict`
        journal = Journal.for_output(output, notes[0].settings_sha256)
        finished_scores(output, journal, {name for row in rows for name in (row.video, row.sha256)})
    write_scores(output, rows, excel_safe=excel_safe, record=notes[0].record)
    remove_note(output)
    return MergedScores(rows)


def _check_shards(files: Sequence[Path], notes: Sequence[ScoreNote]) -> None:
    """Refuse shards of another n, the same shard twice, and missing ones."""
    count = notes[0].share.shard.count
    seen: dict[Shard, Path] = {}
    for path, note in zip(files, notes, strict=True):
        shard = note.share.shard
        if shard.count != count:
            raise ConfigError(f"{files[0]} is one of {count} shards and {path} is {shard}; name the shards of one n")
        if shard in seen:
            raise ConfigError(f"{seen[shard]} and {path} are both shard {shard}; name each shard once")
        seen[shard] = path
    missing = name_missing(seen, count)
    if missing:
        names = ", ".join(map(str, missing))
        raise ConfigError(
            f"of {count} shards these are not named: {names}; name their files too, or make them with: "
            f"deepfake predict … --shard {missing[0]} -o FILE"
        )


def _check_origin(files: Sequence[Path], notes: Sequence[ScoreNote]) -> None:
    """Refuse scores of different weights or settings."""
    for name, what in (("model_sha256", "weights"), ("settings_sha256", "settings")):
        first = getattr(notes[0], name)
        for path, note in zip(files, notes, strict=True):
            other = getattr(note, name)
            if other != first:
                raise ConfigError(
                    f"{files[0]} and {path} were made with different {what} "
                    f"({name} {first[:DIGITS]}… and {other[:DIGITS]}…); run one of them again with those of the other"
                )

"""`merge`: the shards of a stage, or of a batch of scores, as one: what a run over everything would have left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Shard
from pipelines.errors import ConfigError, ManifestError
from pipelines.records import FINISHED, FaceRow, FrameRow, ScoreRow
from pipelines.scoring.score_files import Journal, check_score_path, finished_scores, read_scores, write_scores
from pipelines.scoring.settings import DIGITS
from pipelines.scoring.shard_sidecar import ScoreNote, read_note, remove_note
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.lock import hold_stage
from pipelines.workspace.run_loop import StageSummary, write_manifests
from pipelines.workspace.shards import StageShard, command_for, join_rows, name_missing, read_all_shards

ROW_TYPES = {"extract-frames": FrameRow, "detect-faces": FaceRow}
"""Stages that can be run in shards."""


@dataclass(frozen=True)
class MergedScores:
    """The scores of all shards."""

    rows: list[ScoreRow]

    @property
    def failures(self) -> list[ScoreRow]:
        return [row for row in self.rows if row.status not in FINISHED]


def merge_stage(workspace: Path | str, stage: str) -> StageSummary:
    """Write `videos.parquet` and the manifest of a stage whose shards are all there.

    They are those of a run without shards. Nothing is written before everything was checked.

    Args:
        stage: `extract-frames` or `detect-faces`.

    Raises:
        ConfigError: a stage that has no shards.
        ManifestError: shards or their parts are missing, or were made with different settings or of different inputs;
            the message names the command that makes them.
    """
    if stage not in ROW_TYPES:
        raise ConfigError(f"stage must be one of {', '.join(ROW_TYPES)}, got {stage}")
    folder = StageFolder(Path(workspace) / stage)
    if not folder.root.is_dir():
        read_all_shards(folder)  # says what is missing: nothing is made in a workspace that has none
    with hold_stage(workspace, stage):
        shards = read_all_shards(folder)
        _check_settings(folder, shards)
        rows = join_rows([(shard.share, shard.rows) for shard in shards])
        for shard in shards:
            _check_parts(folder, shard)
        finished = [row.video_id for row in rows if row.status in FINISHED]
        write_manifests(folder, shards[0].provenance, ROW_TYPES[stage], rows, finished)
        return StageSummary(stage, folder.root, rows, skipped=0)


def merge_scores(
    paths: Sequence[Path | str], output: Path | str, *, overwrite: bool = False, excel_safe: bool = False
) -> MergedScores:
    """Write the scores of all shards of one `predict` into one file, in the order of a run over everything.

    Args:
        paths: what `predict` has written with a shard each, in any order and format; the note `<name>.shard` of each lies
            beside it.
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
        journal = Journal.beside(output, notes[0].settings_sha256)
        finished_scores(output, journal, {name for row in rows for name in (row.video, row.sha256)})
    write_scores(output, rows, excel_safe=excel_safe, record=notes[0].record)
    remove_note(output)
    return MergedScores(rows)


def _check_settings(folder: StageFolder, shards: Sequence[StageShard]) -> None:
    first = shards[0]
    for shard in shards:
        changes = shard.provenance.changes_from(first.provenance)
        if changes:
            raise ManifestError(
                f"shard {shard.share.shard} of {folder.root} was made with other settings than {first.share.shard}: "
                f"{'; '.join(changes)}; make all with the same"
            )


def _check_parts(folder: StageFolder, shard: StageShard) -> None:
    """Refuse a shard whose parts were lost, on the way from another server for example."""
    finished = dict.fromkeys(row.video_id for row in shard.rows if row.status in FINISHED)
    lost = [video_id for video_id in finished if not folder.has_part(video_id, shard.provenance)]
    if lost:
        raise ManifestError(
            f"{folder.parts_folder} lacks {len(lost)} of the {len(finished)} parts of shard {shard.share.shard} "
            f"({lost[0]}.parquet, …); copy them too, or run: {command_for(folder, shard.share.shard)}"
        )


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

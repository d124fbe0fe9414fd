"""The note next to a shard's score file: what `merge` needs and the published columns do not say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.config import Shard
from pipelines.errors import ConfigError
from pipelines.system.atomic_files import remove_for_good, replace_atomically
from pipelines.system.file_digest import file_digest
from pipelines.workspace.shards import Share

NOTE_SUFFIX = ".shard"


@dataclass(frozen=True)
class ScoreNote:
    """Which share of all inputs a score file holds, and the settings it was made with."""

    share: Share
    model_sha256: str
    settings_sha256: str
    scores_sha256: str
    """Digest of the score file."""
    record: str | None = None
    """What `write_scores` stores in a Parquet file's metadata."""


def write_note(
    output: Path, share: Share, *, model_sha256: str, settings_sha256: str, record: str | None = None
) -> None:
    """Write the note of an existing score file."""
    note = ScoreNote(share, model_sha256, settings_sha256, file_digest(output), record)
    with replace_atomically(_note_path(output)) as temporary:
        temporary.write_text(json.dumps(asdict(note)) + "\n", "utf-8")


def remove_note(output: Path) -> None:
    """Remove the note: the file holds all scores."""
    remove_for_good(_note_path(output))


def read_note(scores: Path) -> ScoreNote:
    """The note of a score file.

    Raises:
        ConfigError: the file or its note is missing, or they do not belong together.
    """
    path = _note_path(scores)
    if not scores.is_file():
        raise ConfigError(f"{scores} does not exist; make it with: deepfake predict … --shard i/n -o {scores}")
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: copy it along with {scores.name}, or run again: deepfake predict … --shard i/n -o {scores}"
        )
    try:
        note = _note_from(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged; run again: deepfake predict … --shard i/n -o {scores}") from error
    if note.scores_sha256 != file_digest(scores):
        raise ConfigError(
            f"{scores} is not the file that {path.name} was written for; copy both again, "
            f"or run again: deepfake predict … --shard {note.share.shard} -o {scores}"
        )
    return note


def _note_from(record: dict[str, Any]) -> ScoreNote:
    share = record.pop("share")
    shard, positions = Shard(**share.pop("shard")), tuple(share.pop("positions"))
    return ScoreNote(Share(shard=shard, positions=positions, **share), **record)


def _note_path(scores: Path) -> Path:
    return scores.with_name(f"{scores.name}{NOTE_SUFFIX}")

"""Every error that a user can cause or encounter, as one tree.

    DeepfakeError
    ├── ConfigError               wrong usage or configuration; nothing was processed   exit 2
    │   ├── SettingsChangedError  the workspace was created with other settings
    │   ├── ManifestError         a manifest is missing, foreign or of another stage
    │   ├── CheckpointError       a weights file is damaged, foreign or of another kind
    │   ├── DatasetError          labels or splits contradict each other, or nothing is left
    │   └── TrainingDivergedError the loss became NaN or infinite
    ├── LeakError                 related videos are on both sides of a split           exit 4
    ├── InputError                one input could not be processed; the others are      exit 3
    │   └── UnreadableError       the file does not open or decode
    ├── DownloadError             a file could not be fetched, or its digest is wrong   exit 3
    └── StorageError              the output could not be written                       exit 3

A message names the cause and the remedy. Any other exception is a bug and keeps its traceback (exit 1).
"""

from __future__ import annotations


class DeepfakeError(Exception):
    """Base class of all errors that a user sees as one line."""


class ConfigError(DeepfakeError):
    """Wrong usage or configuration: nothing was processed."""


class SettingsChangedError(ConfigError):
    """The workspace has results of other settings."""


class ManifestError(ConfigError):
    """A manifest is missing, foreign, damaged or of another stage."""


class CheckpointError(ConfigError):
    """A weights file is missing, damaged, foreign or of another kind."""


class DatasetError(ConfigError):
    """Labels or splits contradict each other, or nothing usable is left."""


class TrainingDivergedError(ConfigError):
    """The loss became NaN or infinite; the last completed epoch is kept."""


class LeakError(DeepfakeError):
    """Videos with the same content, original, group or identity are on different sides of a split."""


class InputError(DeepfakeError):
    """One input could not be processed; its row says why, and the other inputs are processed."""


class UnreadableError(InputError):
    """A file does not open, contains no picture, or does not decode."""


class DownloadError(DeepfakeError):
    """A file could not be fetched, or is not the expected one."""


class StorageError(DeepfakeError):
    """The output could not be written (no space, no permission, or the folder is gone)."""


def describe_failure(failure: BaseException) -> str:
    """One line for the `error` column."""
    if isinstance(failure, DeepfakeError):
        return str(failure)
    return f"{type(failure).__name__}: {failure}".splitlines()[0]

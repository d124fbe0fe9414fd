"""Every error that a user can cause or meet, as one tree.

    DeepfakeError
    ├── ConfigError               wrong use or configuration; nothing was processed         exit 2
    │   ├── SettingsChangedError  the workspace was made with other settings
    │   ├── ManifestError         a manifest is missing, foreign or of another stage
    │   ├── CheckpointError       a weights file is damaged, foreign or of another kind
    │   ├── DatasetError          labels or splits contradict each other, or nothing is left
    │   └── TrainingDivergedError the loss is no longer a number
    ├── LeakError                 what must stand on one side of a split stands on two        exit 4
    ├── InputError                one input could not be processed; the others go on        exit 3
    │   └── UnreadableError       the file does not open or decode
    ├── DownloadError             a file could not be fetched, or is not the right one      exit 3
    └── StorageError              the output could not be written                           exit 3

A message names the cause and the remedy. Anything outside this tree is a bug and keeps its traceback (exit 1).
"""

from __future__ import annotations


class DeepfakeError(Exception):
    """Root of all errors that are shown to a user as one line."""


class ConfigError(DeepfakeError):
    """Wrong use or configuration: nothing was processed."""


class SettingsChangedError(ConfigError):
    """The workspace holds results of other settings."""


class ManifestError(ConfigError):
    """A manifest is missing, foreign, damaged or of another stage."""


class CheckpointError(ConfigError):
    """A weights file is missing, damaged, foreign or of another kind."""


class DatasetError(ConfigError):
    """Labels or splits contradict each other, or nothing usable is left."""


class TrainingDivergedError(ConfigError):
    """The loss is no longer a number; the last whole epoch is kept."""


class LeakError(DeepfakeError):
    """What must stand on one side of a split (a content, an original, a group, an identity) stands on two."""


class InputError(DeepfakeError):
    """One input could not be processed; its row says why and the other inputs go on."""


class UnreadableError(InputError):
    """A file does not open, holds no picture, or does not decode."""


class DownloadError(DeepfakeError):
    """A file could not be fetched, or what came is not what was asked for."""


class StorageError(DeepfakeError):
    """The output could not be written (no space, no permission, a vanished folder)."""


def describe_failure(failure: BaseException) -> str:
    """One line for the `error` column."""
    if isinstance(failure, DeepfakeError):
        return str(failure)
    return f"{type(failure).__name__}: {failure}".splitlines()[0]

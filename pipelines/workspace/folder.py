"""A stage's folder in a workspace: its files, and the checks before adding to them or reading them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError, ManifestError, SettingsChangedError
from pipelines.records import VideoRow, table_to_rows
from pipelines.system.atomic_files import make_folder, remove_for_good, storage_error, sync_folder
from pipelines.workspace.manifest import Provenance, check_face_settings, read_metadata, read_provenance, read_table


@dataclass(frozen=True)
class StageFolder:
    """The files of one stage in a workspace."""

    root: Path

    @property
    def stage(self) -> str:
        return self.root.name

    @property
    def videos_path(self) -> Path:
        return self.root / "videos.parquet"

    @property
    def manifest_path(self) -> Path:
        return self.root / "manifest.parquet"

    @property
    def parts_folder(self) -> Path:
        return self.root / "parts"

    def part_path(self, video_id: str) -> Path:
        return self.parts_folder / f"{video_id}.parquet"

    def has_part(self, video_id: str, provenance: Provenance) -> bool:
        """Whether an item has an intact part; a damaged one is made again."""
        path = self.part_path(video_id)
        if not path.is_file():
            return False
        try:
            return read_provenance(path) == provenance
        except ManifestError:
            return False

    def read_videos(self) -> list[VideoRow]:
        return table_to_rows(read_table(self.videos_path, VideoRow), VideoRow)

    def read_videos_of(self, splits: Sequence[str]) -> list[VideoRow]:
        """The videos of these splits; all if none is named.

        Raises:
            ConfigError: there are none.
        """
        videos = [video for video in self.read_videos() if not splits or video.split in splits]
        if not videos:
            raise ConfigError(f"{self.root} has no video of the split {' or '.join(splits)}")
        return videos


def open_stage(
    workspace: Path, provenance: Provenance, *, overwrite: bool, folder_name: str | None = None
) -> StageFolder:
    """The stage's folder (named after the stage unless `folder_name` is given), without results of other settings.

    Raises:
        SettingsChangedError: it has such results and `overwrite` is off; the message names the settings.
    """
    folder = StageFolder(workspace / (folder_name or provenance.stage))
    try:
        if overwrite:
            _discard(folder)
        make_folder(folder.root)
    except OSError as error:
        raise storage_error(error, folder.root) from error
    for earlier in _earlier_provenances(folder):
        changes = provenance.changes_from(earlier)
        if changes:
            raise SettingsChangedError(
                f"{folder.root} was made with other settings: {'; '.join(changes)}; "
                "pass --overwrite to make it again, or use another workspace"
            )
    return folder


def _discard(folder: StageFolder) -> None:
    """Empty a stage, manifests and parts first: if killed on the way, nothing must look finished without its files.

    The folder itself may be a link; links in it are removed, not followed.
    """
    remove_for_good(folder.manifest_path)
    if folder.parts_folder.is_dir():
        _remove(folder.parts_folder)
        sync_folder(folder.root)
    remove_for_good(folder.videos_path)
    if folder.root.is_dir():
        for entry in folder.root.iterdir():
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def open_upstream(workspace: Path, stage: str) -> tuple[StageFolder, Provenance]:
    """The finished stage that the next one reads.

    Raises:
        ManifestError: the workspace or the stage is missing or not complete.
    """
    folder = StageFolder(workspace / stage)
    if not workspace.is_dir():
        raise ManifestError(
            f"workspace {workspace} does not exist; make it with: deepfake extract-frames … -w {workspace}"
        )
    if not folder.manifest_path.is_file():
        state = "was not finished" if folder.root.is_dir() else "has not been run"
        raise ManifestError(f"{stage} {state} in {workspace}; run: deepfake {stage} … -w {workspace}")
    provenance = read_provenance(folder.manifest_path)
    if provenance.stage != stage and stage not in ACCEPTED_MAKERS.get(provenance.stage, ()):
        raise ManifestError(f"{folder.manifest_path} is a manifest of {provenance.stage}, not of {stage}")
    if stage == "detect-faces":
        check_face_settings(provenance, folder.manifest_path)
    if provenance.upstream:
        _check_current(folder, provenance, StageFolder(workspace / provenance.upstream.stage))
    return folder, provenance


def _check_current(folder: StageFolder, provenance: Provenance, upstream: StageFolder) -> None:
    """Refuse a stage whose upstream now has other settings or other videos. The upstream may have been removed."""
    if not upstream.root.is_dir():
        return
    again = f"run again: deepfake {folder.stage} -w {folder.root.parent}"
    if not upstream.manifest_path.is_file():
        raise ManifestError(f"{upstream.root} is not finished; finish it, then {again}")
    changes = provenance.upstream.changes_from(read_provenance(upstream.manifest_path)) if provenance.upstream else []
    if changes:
        raise ManifestError(
            f"{folder.root} was made from an earlier {upstream.stage} ({changes[0]}); {again} --overwrite"
        )
    if {video.path for video in upstream.read_videos()} != {video.path for video in folder.read_videos()}:
        raise ManifestError(f"{folder.root} lacks videos of {upstream.stage}, or has others; {again}")


ACCEPTED_MAKERS = {"import-faces": ("detect-faces",)}
"""Stages whose manifest replaces that of another stage."""


def _earlier_provenances(folder: StageFolder) -> Iterator[Provenance]:
    """That of the stage's manifests, else that of any intact part of an interrupted run or a shard."""
    for path in (folder.manifest_path, folder.videos_path, *sorted(folder.parts_folder.glob("*.parquet"))):
        if not path.is_file():
            continue
        try:
            read_metadata(path)
            yield read_provenance(path)
            return
        except ManifestError:
            continue

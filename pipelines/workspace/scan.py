"""Which files of a folder are inputs: videos and images, without hidden files and without what `deepfake` has written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)
STAGES_WITH_PICTURES = ("extract-frames", "detect-faces")
STAGE_FILES = ("manifest.parquet", "digests.jsonl", "parts", "shards")
"""Any of these makes a folder with a stage's name that stage, finished or not."""
FILES_OF_A_RUN = ("manifest.parquet", "attention")
"""Either of these in a subfolder of `train` makes it the folder of training runs; an unfinished run has no manifest."""
FOLDERS_OF_THE_SYSTEM = ("lost+found",)


def walk(
    folder: Path,
    *,
    skip: Callable[[Path], bool] = lambda _folder: False,
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[tuple[Path, list[str]]]:
    """The folder and all folders below it, each with the names of its files.

    Symbolic links to folders are followed, except to a folder that contains the link: that would never end.

    Args:
        skip: whether a subfolder is left out, with everything in it.
        on_error: called for each folder that cannot be listed.
    """
    above = {str(folder): frozenset({os.path.realpath(folder)})}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        ancestors = above.pop(parent)
        real_paths = {name: os.path.realpath(os.path.join(parent, name)) for name in sorted(folders)}
        folders[:] = [
            name for name, path in real_paths.items() if path not in ancestors and not skip(Path(parent, name))
        ]
        above |= {os.path.join(parent, name): ancestors | {real_paths[name]} for name in folders}
        yield Path(parent), files


def scan_folder(root: Path, workspace: Path | None = None) -> tuple[list[Path], int]:
    """The inputs in a folder and its subfolders, sorted, and the number of other files.

    Inputs are files with a known video or image suffix, and others whose container opens as video. A subfolder that cannot
    be listed is an input too, so that its row says so. Hidden files and folders count as other files: `._clip.mp4`, which
    macOS writes on foreign disks, is not a video.

    Workspaces below the folder are skipped, and so are the stages of a workspace that is the folder itself; a warning
    names them unless they belong to the `workspace` of this run. A linked folder is followed if it lies elsewhere.
    """
    real_root = Path(os.path.realpath(root))
    own = Path(os.path.realpath(workspace)) if workspace else None
    inputs: list[Path] = []
    num_ignored = 0

    def skip(folder: Path) -> bool:
        nonlocal num_ignored
        if folder.name.startswith(".") or folder.name in FOLDERS_OF_THE_SYSTEM:
            num_ignored += 1
            return True
        real_path = Path(os.path.realpath(folder))
        if folder.is_symlink() and real_path.is_relative_to(real_root):  # it is scanned where it lies
            return True
        if own and (real_path == own or (real_path.parent == own and real_path.name in STAGES_WITH_PICTURES)):
            return True
        if is_workspace(folder) or _is_stage(folder):
            log.warning("%s is skipped: it holds frames and faces written by deepfake, not videos", folder)
            return True
        return False

    for folder, names in walk(root, skip=skip, on_error=lambda error: inputs.append(Path(error.filename))):
        for path in (folder / name for name in names):
            if _is_input(path):
                inputs.append(path)
            else:
                num_ignored += 1
    return sorted(inputs), num_ignored


def is_workspace(folder: Path) -> bool:
    """Whether a stage that writes pictures has run in the folder."""
    return any(_is_stage(folder / stage) for stage in STAGES_WITH_PICTURES)


def _is_stage(folder: Path) -> bool:
    if folder.name == "train":  # a dataset's training videos, unless it holds runs
        return any(path for name in FILES_OF_A_RUN for path in folder.glob(f"*/{name}"))
    return folder.name in STAGES_WITH_PICTURES and any((folder / name).exists() for name in STAGE_FILES)


def _is_input(path: Path) -> bool:
    from pipelines.video import KNOWN_IMAGE_SUFFIXES, KNOWN_VIDEO_SUFFIXES, looks_like_video

    if path.name.startswith("."):
        return False
    try:
        if path.exists() and not path.is_file():  # a pipe or a device
            return False
    except OSError:  # a link to a place that may not be looked at: its row says so
        pass
    return path.suffix.lower() in KNOWN_VIDEO_SUFFIXES | KNOWN_IMAGE_SUFFIXES or looks_like_video(path)

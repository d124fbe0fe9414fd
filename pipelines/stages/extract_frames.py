"""Stage `extract-frames`: frames of every video as lossless pictures, with their true times."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipelines.config import ExtractConfig, RunOptions, settings_of
from pipelines.errors import ConfigError
from pipelines.records import FrameRow, VideoRow
from pipelines.system.atomic_files import make_folder
from pipelines.system.image_files import write_image
from pipelines.system.progress import ProgressCallback, ignore_progress
from pipelines.system.resources import usable_cores
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.inputs import DigestCache, describe_inputs, find_inputs
from pipelines.workspace.items import ItemResult, StageWork
from pipelines.workspace.manifest import Provenance
from pipelines.workspace.run_loop import StageSummary, enter_stage, run_stage

STAGE = "extract-frames"
ROW_FORMAT = 1


def extract_frames(
    inputs: str | Path | Sequence[str | Path] | None,
    workspace: str | Path,
    config: ExtractConfig | None = None,
    options: RunOptions | None = None,
    *,
    labels: str | Path | None = None,
    splits: Sequence[str] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> StageSummary:
    """Write the frames of all inputs and the stage's manifests; with a shard, the frames of its slice only.

    Args:
        inputs: a file, a folder (searched recursively), a `.txt` list or a videos manifest, or several of them; None means
            the videos that `index` has listed in this workspace.
        labels: CSV `video,label[,split,original,identity,…]`; without it, folders named `real` and `fake` label the
            videos in them.
        splits: take only these splits of a videos manifest.

    Raises:
        ConfigError: no inputs, wrong labels, or a workspace made with other settings.
        StorageError: the manifest could not be written.
    """
    config, options, workspace = config or ExtractConfig(), options or RunOptions(), Path(workspace)
    index = workspace / "index"
    found = find_inputs(_listed_in(index) if inputs is None else inputs, workspace=workspace, splits=splits)
    if options.overwrite:  # wrong inputs and labels are refused before anything is discarded
        videos = describe_inputs(found.files, labels=labels)
    with enter_stage(workspace, Provenance(STAGE, ROW_FORMAT, settings_of(config)), options) as folder:
        if not options.overwrite:
            digests = DigestCache(folder.root / "digests.jsonl", verify=options.verify, also=index / "digests.jsonl")
            videos = describe_inputs(found.files, labels=labels, digest_of=digests.digest_of)
        work = StageWork[VideoRow](
            folder=folder,
            provenance=Provenance(STAGE, ROW_FORMAT, settings_of(config)),
            row_type=FrameRow,
            process=partial(_extract, folder=folder, config=config),
        )
        by_id = {video.video_id: video for video in videos if video.status == "ok"}
        threads = options.workers or min(2, usable_cores())
        summary = run_stage(work, videos, by_id, options, threads=threads, on_progress=on_progress)
        return replace(summary, num_ignored=found.num_ignored)


def _listed_in(index: Path) -> Path:
    manifest = StageFolder(index).videos_path
    if not manifest.is_file():
        raise ConfigError(
            f"no inputs: name videos or folders, or list a data set in {index.parent} with: deepfake index"
        )
    return manifest


def _extract(video: VideoRow, *, folder: StageFolder, config: ExtractConfig) -> ItemResult:
    """Decode and write one video; its folder of frames appears whole or not at all."""
    from pipelines.video import open_video
    from pipelines.video.frames import ChosenFrames

    final = folder.root / "frames" / video.video_id
    temporary = folder.root / "frames" / f".{video.video_id}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary.parent)
    temporary.mkdir()
    rows = []
    try:
        with open_video(video.path, decoder=config.decoder) as reader:
            frames = ChosenFrames(
                reader,
                Path(video.path),
                count=config.frames if config.fps is None else None,
                rate_hz=config.fps,
                start_seconds=config.start_seconds,
                end_seconds=config.end_seconds,
            )
            for frame in frames:
                name = f"{frame.index:08d}.{config.format}"
                write_image(temporary / name, frame.image)
                rows.append(
                    FrameRow(
                        video_id=video.video_id,
                        frame_index=frame.index,
                        pts=frame.pts,
                        time_base_num=reader.info.time_base.numerator,
                        time_base_den=reader.info.time_base.denominator,
                        pts_seconds=frame.pts_seconds,
                        width_px=frame.image.shape[1],
                        height_px=frame.image.shape[0],
                        rotation_degrees=reader.info.rotation_degrees,
                        path=f"frames/{video.video_id}/{name}",
                    )
                )
            note = frames.note
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ItemResult(rows, note=note, folder=final)

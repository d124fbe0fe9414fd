"""Stage `extract-frames`: frames of every video as lossless pictures, with their true times."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

from pipelines.config import ExtractConfig, RunOptions, settings_of
from pipelines.errors import ConfigError
from pipelines.records import FINISHED, FrameRow, VideoRow
from pipelines.system.atomic_files import make_folder
from pipelines.system.image_files import write_image
from pipelines.system.progress import ProgressCallback, ignore_progress
from pipelines.system.resources import usable_cores
from pipelines.workspace.folder import StageFolder, open_stage
from pipelines.workspace.inputs import DigestCache, describe_inputs, find_inputs
from pipelines.workspace.items import ItemResult
from pipelines.workspace.lock import hold_stage
from pipelines.workspace.manifest import Provenance
from pipelines.workspace.run_loop import StageRun, StageSummary, with_outcome
from pipelines.workspace.shards import refuse_overwrite, select_videos, write_shard

STAGE = "extract-frames"
ROW_FORMAT = 1


def extract_frames(
    inputs: Sequence[str | Path] | None,
    workspace: Path | str,
    config: ExtractConfig | None = None,
    options: RunOptions | None = None,
    *,
    labels: Path | None = None,
    splits: Sequence[str] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> StageSummary:
    """Write the frames of all inputs and the stage's manifest; with a shard its slice only, and what `merge` needs.

    Args:
        inputs: files, folders (searched recursively), `.txt` lists or videos manifests; None means the videos that
            `index` has listed in this workspace.
        labels: CSV `video,label[,split,original,identity,…]`; without it, folders named `real` and `fake` label what
            they hold.
        splits: of a videos manifest, take only these.

    Raises:
        ConfigError: no inputs, wrong labels, or a workspace made with other settings.
        StorageError: the manifest could not be written.
    """
    config, options = config or ExtractConfig(), options or RunOptions()
    refuse_overwrite(options, Path(workspace) / STAGE)
    index = Path(workspace) / "index"
    found = find_inputs([_listed_in(index)] if inputs is None else inputs, workspace=Path(workspace), splits=splits)
    provenance = Provenance(STAGE, ROW_FORMAT, settings_of(config))
    if options.overwrite:  # wrong inputs and labels are refused before anything is discarded
        videos = describe_inputs(found.files, labels=labels)
    with hold_stage(workspace, STAGE, options.shard):
        folder = open_stage(Path(workspace), provenance, overwrite=options.overwrite)
        if not options.overwrite:
            digests = DigestCache(folder.root / "digests.jsonl", verify=options.verify, also=index / "digests.jsonl")
            videos = describe_inputs(found.files, labels=labels, digest_of=digests.digest_of)
        own = select_videos(videos, options.shard)
        readable = {video.video_id: video for video in own if video.status == "ok"}
        run = StageRun[VideoRow](
            folder=folder,
            provenance=provenance,
            row_type=FrameRow,
            process=partial(_extract, folder=folder, config=config),
            id_of=attrgetter("video_id"),
            options=options,
            threads=options.workers or min(2, usable_cores()),
            shard=options.shard,
            on_progress=on_progress,
        )
        skipped = sum(run.is_finished(video_id) for video_id in readable)
        failures = run.run(list(readable.values()))
        rows = [with_outcome(video, folder, failures) if video.status == "ok" else video for video in own]
        if options.shard:
            write_shard(folder, provenance, options.shard, rows, videos)
        else:
            run.finish(rows, [row.video_id for row in rows if row.status in FINISHED])
        return StageSummary(STAGE, folder.root, rows, skipped, found.num_ignored, options.shard)


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
    beside = folder.root / "frames" / f".{video.video_id}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    make_folder(beside.parent)
    beside.mkdir()
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
                write_image(beside / name, frame.image)
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
        beside.rename(final)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return ItemResult(rows, note=note, folder=final)

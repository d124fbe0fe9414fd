"""Groups face crops into videos, and videos into batches that are processed as one part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipelines.data.face_crop_sources import SourceFace, digest_of_pictures
from pipelines.errors import DatasetError
from pipelines.records import VideoRow
from pipelines.workspace.labels import LABEL_FIELDS, VideoLabel

FACES_PER_PART = 1000


@dataclass(frozen=True)
class SourceVideo:
    """The face crops that share one `video` value; a crop without one forms a separate video."""

    row: VideoRow
    faces: tuple[SourceFace, ...]
    masks_sha256: str = ""
    """Digest of the faces' masks; empty if none has one."""


@dataclass(frozen=True)
class FaceBatch:
    """Videos that are stored in one part."""

    part_id: str
    videos: tuple[SourceVideo, ...]


def group_videos(faces: Iterable[SourceFace]) -> list[SourceVideo]:
    """Face crops by their `video` value, in order of first appearance; each video with digest and label.

    Raises:
        DatasetError: no crops, one picture with two labels, or contradictory labels within a video.
    """
    groups: dict[str, list[SourceFace]] = {}
    for face in faces:
        groups.setdefault(face.video or face.name, []).append(face)
    if not groups:
        raise DatasetError("the source holds no pictures")
    videos = []
    label_of: dict[str, tuple[str | None, str]] = {}
    for name, members in groups.items():
        about = _agreed(name, members)
        row = VideoRow(
            video_id="",
            sha256="",
            video_key=name,
            path=name,
            **vars(about),
        )
        pictures = [data for face in members if (data := face.read())]
        if pictures:
            sha256 = digest_of_pictures(pictures)
            earlier_label, earlier = label_of.setdefault(sha256, (about.label, name))
            if earlier_label != about.label:
                raise DatasetError(
                    f"{earlier} and {name} are the same picture, labelled {earlier_label} and {about.label}; correct one"
                )
            row = replace(row, video_id=sha256[:16], sha256=sha256)
        else:
            row = replace(row, status="unreadable", error=f"{members[0].name} is missing or empty; check the path")
        videos.append(SourceVideo(row, tuple(members), _digest_of_masks(members)))
    return videos


def make_batches(videos: Iterable[SourceVideo]) -> Iterator[FaceBatch]:
    """Batches of up to `FACES_PER_PART` crops, with at least one video each."""
    batch: list[SourceVideo] = []
    for video in videos:
        if batch and sum(len(member.faces) for member in batch) + len(video.faces) > FACES_PER_PART:
            yield _make_batch(batch)
            batch = []
        batch.append(video)
    if batch:
        yield _make_batch(batch)


def split_batches(batches: Iterable[FaceBatch], chosen: Collection[str]) -> list[FaceBatch]:
    """The batches, with those of the chosen parts split into single videos."""
    divided: list[FaceBatch] = []
    for batch in batches:
        divided += [_make_batch([video]) for video in batch.videos] if batch.part_id in chosen else [batch]
    return divided


def split_where_begun(batches: Iterable[FaceBatch], is_finished: Callable[[str], bool]) -> list[FaceBatch]:
    """Split the batches that an earlier run has split after they failed as a whole."""
    batches = list(batches)
    begun = [
        batch.part_id
        for batch in batches
        if len(batch.videos) > 1
        and not is_finished(batch.part_id)
        and any(is_finished(_make_batch([video]).part_id) for video in batch.videos)
    ]
    return split_batches(batches, begun)


def _agreed(name: str, faces: Sequence[SourceFace]) -> VideoLabel:
    """The label of a video. All its faces must agree, except on the identity: several people may be visible."""
    identities = ";".join(dict.fromkeys(face.about.identity for face in faces if face.about.identity)) or None
    said = {replace(face.about, identity=identities) for face in faces}
    for field in LABEL_FIELDS:
        if len({getattr(about, field) for about in said}) > 1:
            raise DatasetError(f"the faces of {name} differ in {field}; give each video one")
    return said.pop()


def _digest_of_masks(faces: Sequence[SourceFace]) -> str:
    digests = [hashlib.sha256(face.read_mask()).hexdigest() if face.read_mask else "none" for face in faces]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if set(digests) != {"none"} else ""


def _make_batch(videos: Sequence[SourceVideo]) -> FaceBatch:
    """Named after the pictures, and after their masks, so that masks that are added or corrected are taken."""
    content = "".join(video.row.sha256 + video.masks_sha256 for video in videos)
    return FaceBatch(hashlib.sha256(content.encode()).hexdigest()[:16], tuple(videos))

"""Opens a local file as a real video container, or raises an error that says why not and what to do."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipelines.errors import UnreadableError
from pipelines.system.image_header import KNOWN_IMAGE_SUFFIXES, MAX_PIXELS, is_heif, is_image, refuse_giant
from pipelines.video.mp4_index import refuse_bloated_index

KNOWN_VIDEO_SUFFIXES: Final = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc",
    ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
    ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))  # fmt: skip

# FFmpeg's names of formats that hold their own pictures. Text (tty), image sequences, playlists (hls, dash, concat)
# and devices are left out: they would turn a file name into other files or into the network.
VIDEO_FORMATS: Final = frozenset((
    "3gp", "asf", "av1", "avi", "avs2", "avs3", "cavsvideo", "dhav", "dirac", "dv", "evc", "flv", "gif", "gxf",
    "h261", "h263", "h264", "hevc", "ivf", "kux", "live_flv", "m4v", "matroska", "mjpeg", "mov", "mp4", "mpeg",
    "mpegts", "mpegvideo", "mxf", "nsv", "nut", "nuv", "obu", "ogg", "pva", "rm", "ty", "vc1", "vc1test", "vvc",
    "webm", "wtv", "yuv4mpegpipe",
))  # fmt: skip

# "enable_drefs" would let an MP4 file take its samples from other files.
CONTAINER_OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(VIDEO_FORMATS)),
    "enable_drefs": "0",
}
# `pick_video_stream` checks the size in the stream's header; FFmpeg itself refuses pictures that grow mid-stream.
DECODER_OPTIONS: Final = {"max_pixels": str(MAX_PIXELS)}
HEAD_BYTES: Final = 4096

# Tags that are not UTF-8 must not keep a file from opening. PyAV up to 18 needs this option; 19 no longer has it.
METADATA_OPTIONS: Final[dict[str, Any]] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)
TRANSPORT_PACKET_BYTES: Final = 188


def shown_name(path: Path) -> str:
    """The file's name as one printable line, for messages."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in path.name) or str(path)


def read_head(path: Path) -> bytes:
    """The first bytes of a regular, readable, non-empty file; anything else is an UnreadableError."""
    name = shown_name(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UnreadableError(f"{name} is a folder; pass a video file")
        if not stat.S_ISREG(mode):
            raise UnreadableError(f"{name} is not a regular file; pass a video file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise UnreadableError(f"{name} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UnreadableError(f"{name} cannot be read ({cause}); check the path and its permissions") from error
    if not head:
        raise UnreadableError(f"{name} is empty (0 bytes); copy it again from its source")
    return head


def open_container(path: Path) -> InputContainer:
    """Open a local file with FFmpeg as one of `VIDEO_FORMATS`; no other file is ever opened or followed."""
    head = read_head(path)
    _refuse_other_kinds(path, head)
    refuse_bloated_index(path, shown_name(path))
    try:
        # The "file:" prefix takes names such as "concat:a", "-x.mp4" or "50%.mp4" literally.
        container: InputContainer = av.open(
            f"file:{path}",
            options=DECODER_OPTIONS,
            container_options=CONTAINER_OPTIONS,
            **METADATA_OPTIONS,
        )
        return container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableError(_explain_failure(path, head, error)) from error


def pick_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The main moving-picture stream; cover art does not count."""
    name = shown_name(path)
    attached = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not moving:
        found = "only cover art" if container.streams.video else "no video stream"
        raise UnreadableError(f"{name} has {found}; pass a video file")
    best = container.streams.best("video")
    stream = next((candidate for candidate in moving if candidate is best), moving[0])
    if stream.codec_context is None:
        raise UnreadableError(f"{name} uses a codec that FFmpeg cannot decode; convert it to H.264")
    refuse_giant(name, stream.width, stream.height)
    stream.codec_context.options = dict(DECODER_OPTIONS)
    return stream


def looks_like_video(path: Path | str) -> bool:
    """Whether the container opens as real video, not as an image, text, image sequence, playlist or audio."""
    path = Path(path)
    try:
        if is_image(read_head(path)):
            return False
        with open_container(path) as container:
            pick_video_stream(container, path)
    except UnreadableError:
        return False
    return True


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    name = shown_name(path)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith((b"#EXTM3U", b"ffconcat", b"file '")) or b"<MPD" in start[:2048]:
        raise UnreadableError(f"{name} is a playlist, which is never followed; pass the video file itself")
    if _is_text(head):
        raise UnreadableError(f"{name} is a text file; pass a video file")
    if is_heif(head):
        raise UnreadableError(f"{name} is a HEIC or AVIF picture; convert it to PNG or JPEG")
    if head.startswith(b"GIF8") and len(head) >= 10:  # FFmpeg keeps no size that it refuses
        refuse_giant(name, *struct.unpack_from("<HH", head, 6))


def _is_text(head: bytes) -> bool:
    """Whether these bytes read as UTF-8 or UTF-16 text without control characters (YUV4MPEG has a text header)."""
    if head.startswith((b"YUV4MPEG2", b"nut/multimedia")):
        return False
    for encoding in ("utf-16",) if head.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8",):
        try:
            text = head[:-4].decode(encoding) if len(head) == HEAD_BYTES else head.decode(encoding)
        except UnicodeDecodeError as error:
            if len(head) < HEAD_BYTES or error.start < HEAD_BYTES - 8:
                return False
            text = head[: error.start].decode(encoding)
        return all(char.isprintable() or char in "\t\r\n\f\x1b\x1a\ufeff" for char in text)
    return False


def _explain_failure(path: Path, head: bytes, error: Exception) -> str:
    name = shown_name(path)
    if head[4:8] in (b"ftyp", b"wide", b"mdat", b"free", b"skip") and not _has_moov(path):
        return f"{name} has no index (no moov box), it was probably cut off; copy it again from its source"
    if path.suffix.lower() in KNOWN_IMAGE_SUFFIXES:
        return f"{name} is not an image in a known format; convert it to PNG or JPEG"
    cause = getattr(error, "strerror", None) or str(error)
    return (
        f"{name} does not open as a video ({cause}); it is damaged or not a video: copy it again or convert it to MP4"
    )


def _has_moov(path: Path) -> bool:
    """Walk the top-level boxes of an MP4 or MOV file."""
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        position = 0
        while position + 8 <= end:
            file.seek(position)
            size, kind = _read_box_header(file)
            if kind == b"moov":
                return position + size <= end
            if size < 8:
                return False
            position += size
    return False


def _read_box_header(file: BinaryIO) -> tuple[int, bytes]:
    """(size in bytes, type) of the box that starts here; a size of 0 means "to the end" and is returned as is."""
    header = file.read(16)
    size = int.from_bytes(header[:4], "big")
    return (int.from_bytes(header[8:16], "big") if size == 1 else size), header[4:8]

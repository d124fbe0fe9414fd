"""A file is read alone: no server is contacted and no other file is read, whatever it refers to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from pipelines.errors import UnreadableError
from pipelines.video import looks_like_video, open_video
from tests.file_server import FileServer, serve
from tests.synthetic import draw_frame, read_number, write_video

SECRET_NUMBER = 600
NUM_FRAMES = 6
SIZE_PX = (64, 48)

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    "<Representation><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
CONCAT = "ffconcat version 1.0\nfile '{url}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{url}\nm=video {port} RTP/AVP 96\n"
SMIL = '<smil><body><video src="{url}"/></body></smil>\n'
ASX = '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>\n'
REFERENCE = "[Reference]\nRef1={url}\n"
PLAYLISTS = {
    "hls": HLS,
    "hls after a mark": "\ufeff" + HLS,
    "hls after spaces": " \n\t" + HLS,
    "hls of a key": HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF'),
    "hls of sound": '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",URI="{url}"\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}\n',
    "hls with bytes": HLS + "\x00\x01\x02",
    "concat": CONCAT,
    "dash": DASH,
    "dash after a long comment": DASH.replace("<MPD", f"<!--{'x' * 5000}--><MPD"),
    "dash with bytes": DASH + "\x00\x01",
    "sdp": SDP,
    "smil": SMIL,
    "asx": ASX,
    "reference": REFERENCE,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serve(_write_secret(tmp_path / "secret.mp4").read_bytes()) as server:
        yield server


def _write_secret(path: Path) -> Path:
    """A clip that another file may point at: its frames are recognised by their numbers."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE_PX, "yuv420p"
        for number in range(NUM_FRAMES):
            image = draw_frame(SECRET_NUMBER + number, SIZE_PX)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".m3u8", ".mpd", ".sdp", ".ffconcat", ".gif", ".mjpeg"])
@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("target", ["server", "file"])
def test_a_playlist_is_refused_and_not_followed(
    tmp_path: Path, server: FileServer, kind: str, suffix: str, target: str
) -> None:
    secret = tmp_path / "secret.mp4"
    url = server.url("a.mp4") if target == "server" else str(secret)
    path = tmp_path / f"list{suffix}"
    path.write_text(PLAYLISTS[kind].format(url=url, port=server.port), encoding="utf-8")
    with pytest.raises(UnreadableError, match=rf"^list\{suffix} "):
        _read_numbers(path)
    assert not looks_like_video(path)
    assert server.asked == []


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_ffmpeg_by_itself_would_follow_such_a_playlist(tmp_path: Path, name: str) -> None:
    _write_secret(tmp_path / "secret.ts")
    path = tmp_path / name
    path.write_text((HLS if name.endswith("m3u8") else CONCAT).format(url="secret.ts"))
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == NUM_FRAMES
    with pytest.raises(UnreadableError, match="never followed"):
        open_video(path)


def test_an_alias_in_an_mp4_does_not_open_another_file(tmp_path: Path) -> None:
    path, secret = tmp_path / "alias.mp4", _write_secret(tmp_path / "secret.mp4").read_bytes()
    place, end = secret.index(b"mdat") + 4, secret.rindex(b"moov") - 4
    emptied = secret[:place] + bytes(end - place) + secret[end:]
    path.write_bytes(_replace_reference(emptied, _make_alias("secret.mp4")))
    with av.open(str(path), options={"enable_drefs": "1"}) as container:  # the alias is a good one
        assert SECRET_NUMBER in [
            read_number(picture.to_ndarray(format="rgb24")) for picture in container.decode(video=0)
        ]
    with pytest.raises(UnreadableError, match=r"^alias\.mp4"):
        _read_numbers(path)


@pytest.mark.parametrize("kind", ["url ", "urn "])
def test_an_address_in_an_mp4_is_not_asked(tmp_path: Path, server: FileServer, kind: str) -> None:
    own = write_video(tmp_path / "own.mp4", num_frames=NUM_FRAMES, size=SIZE_PX).read_bytes()
    path = tmp_path / "address.mp4"
    path.write_bytes(_replace_reference(own, _box(kind.encode(), bytes(4) + server.url().encode() + b"\0")))
    assert _read_numbers(path) == list(range(NUM_FRAMES))
    assert server.asked == []


@pytest.mark.parametrize("element", [b"\x3e\x83\xbb", b"\x3c\x83\xab"], ids=["next file", "previous file"])
@pytest.mark.parametrize("target", ["server", "file"])
def test_linked_matroska_segments_are_not_followed(
    tmp_path: Path, server: FileServer, element: bytes, target: str
) -> None:
    own = write_video(tmp_path / "own.mkv", num_frames=NUM_FRAMES, size=SIZE_PX).read_bytes()
    link = server.url("a").encode() if target == "server" else b"secret.mp4"
    path = tmp_path / "linked.mkv"
    path.write_bytes(_replace_names(own, element, link))
    assert _read_numbers(path) == list(range(NUM_FRAMES))
    assert server.asked == []


def _read_numbers(path: Path) -> list[int]:
    with open_video(path) as video:
        return [read_number(frame.image) for frame in video.frames(range(video.info.num_frames))]


def _replace_reference(data: bytes, reference: bytes) -> bytes:
    """An MP4 file whose samples are said to lie elsewhere; its index is at its end, so nothing else moves."""
    old = data[(place := data.index(b"url ") - 4) : place + 12]
    changed = bytearray(data[:place] + reference + data[place + len(old) :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = data.index(kind, data.rindex(b"moov")) - 4
        (size,) = struct.unpack_from(">I", changed, start)
        struct.pack_into(">I", changed, start, size + len(reference) - len(old))
    return bytes(changed)


def _make_alias(name: str) -> bytes:
    """A Macintosh alias record: a file of this name in the same folder, one level up and one down."""
    text = name.encode()
    record = bytes(10) + bytes(28) + bytes(12) + bytes((len(text),)) + text.ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16)
    record += struct.pack(">HH", 2, len(text) + 1) + b":" + text + bytes((len(text) + 1) % 2) + b"\xff\xff\0\0"
    return _box(b"alis", bytes(4) + record)


def _replace_names(data: bytes, element: bytes, link: bytes) -> bytes:
    """A Matroska file in which a link takes the place of the names of the programs that wrote it."""
    start = data.index(b"\x4d\x80")
    second = data.index(b"\x57\x41", start)
    end = second + 3 + (data[second + 2] & 0x7F)
    found = element + bytes((0x80 | len(link),)) + link
    room = end - start - len(found) - 2
    assert room >= 0
    return data[:start] + found + b"\xec" + bytes((0x80 | room,)) + bytes(room) + data[end:]


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content

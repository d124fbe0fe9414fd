"""`deepfake weights`: list, pull, verify, path and import."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import weights
from tests.conftest import Deepfake
from tests.file_server import Answer, FileServer, closed_port, serve
from weights import WeightsEntry

NAME = "tested"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("pipelines.checkpoints.download.PAUSE_SECONDS", 0)
    return tmp_path / "cache" / "weights"


@pytest.fixture(scope="module")
def packed() -> bytes:
    """The embedded detector as other people publish theirs: a PyTorch file alone in a .zip."""
    state = load_file(weights.embedded_path(weights.REGISTRY["retinaface-mobilenet0.25"]))
    inner, outer = io.BytesIO(), io.BytesIO()
    torch.save(state, inner)
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("retinaface.pth", inner.getvalue())
    return outer.getvalue()


@pytest.fixture
def server(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serve(packed) as started:
        _register(monkeypatch, started.url("retinaface-0123.zip"), hashlib.sha256(packed).hexdigest())
        yield started


def _register(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str) -> None:
    entry = WeightsEntry(NAME, "detector", sha256, licence="MIT", description="for tests", url=url)
    monkeypatch.setitem(weights.REGISTRY, NAME, entry)


def _listed(deepfake: Deepfake) -> str:
    """What `weights list` says of `NAME`."""
    return deepfake("weights", "list").stdout.split(f"{NAME} ", 1)[1].splitlines()[0]


def test_known_weights_are_listed_with_licence(deepfake: Deepfake) -> None:
    listed = deepfake("weights", "list")
    assert listed.exit_code == 0
    for name in ("retinaface-mobilenet0.25", "multi-attention-default", "retinaface-resnet50-official"):
        assert name in listed.stdout
    assert listed.stdout.count("licence:") == 4


def test_embedded_weights_are_whole_and_their_path_is_told(deepfake: Deepfake) -> None:
    verified = deepfake("weights", "verify")
    assert verified.exit_code == 0, verified.stdout
    assert verified.stdout.count("  ok  ") == 2
    told = deepfake("weights", "path", "retinaface-mobilenet0.25")
    assert Path(told.stdout.strip()).is_file()


def test_pulled_weights_are_listed_verified_told_and_used(
    deepfake: Deepfake, server: FileServer, cache: Path, packed: bytes, clip: Path, tmp_path: Path
) -> None:
    assert "not included" in _listed(deepfake)
    not_yet = deepfake("weights", "path", NAME)
    assert (not_yet.exit_code, not_yet.stdout) == (2, "")
    assert f"run: deepfake weights pull {NAME}" in not_yet.stderr

    pulled = deepfake("weights", "pull", NAME)
    path, digest = cache / f"{NAME}.zip", hashlib.sha256(packed).hexdigest()
    assert pulled.exit_code == 0, pulled.stderr
    assert pulled.stdout == f"{NAME}: pulled, {path} ({len(packed) / 1e6:.1f} MB, SHA-256 {digest})\n"
    assert deepfake("weights", "pull", NAME).stdout.startswith(f"{NAME}: already there, {path} ")
    assert len(server.asked) == 1
    assert " pulled " in _listed(deepfake)
    assert f"{NAME}  ok  {digest}\n" in deepfake("weights", "verify").stdout
    assert deepfake("weights", "path", NAME).stdout == f"{path}\n"

    work = tmp_path / "work"
    assert deepfake("extract-frames", clip, "-w", work, "--frames", 1).exit_code == 0
    detected = deepfake("detect-faces", "-w", work, "--detector", NAME)
    assert detected.exit_code == 0 and "1 face" in detected.stdout, detected.stderr


def test_a_pulled_file_that_was_damaged_later_fails_verify(deepfake: Deepfake, server: FileServer, cache: Path) -> None:
    deepfake("weights", "pull", NAME)
    (cache / f"{NAME}.zip").write_bytes(b"damaged")
    verified = deepfake("weights", "verify")
    assert verified.exit_code == 4
    assert f"{NAME}  damaged  " in verified.stdout and f"run: deepfake weights pull {NAME}" in verified.stdout
    assert deepfake("weights", "pull", NAME).exit_code == 0
    assert deepfake("weights", "verify").exit_code == 0


def test_overwrite_pulls_again_and_quiet_says_nothing(deepfake: Deepfake, server: FileServer) -> None:
    assert deepfake("weights", "pull", NAME, "retinaface-mobilenet0.25", "-q").stdout == ""
    again = deepfake("weights", "pull", NAME, "--overwrite")
    assert again.stdout.startswith(f"{NAME}: pulled, ")
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(corrupts=True), "is not the registered file: its SHA-256 is "),
        (Answer(status=404), "the server answered 404 Not Found"),
        (Answer(cut_after=10), "the bytes received are kept: run the same command again"),
    ],
    ids=["corrupted", "not served", "cut"],
)
def test_a_failed_pull_is_one_line_and_exit_3(
    deepfake: Deepfake, server: FileServer, answer: Answer, message: str
) -> None:
    server.otherwise = answer
    failed = deepfake("weights", "pull", NAME, "-q")
    assert (failed.exit_code, failed.stdout) == (3, "")
    assert failed.stderr.startswith("error: ") and message in failed.stderr and failed.stderr.count("\n") == 1


def test_without_a_connection_one_line_says_so(deepfake: Deepfake, monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, f"http://127.0.0.1:{closed_port()}/weights.zip", "0" * 64)
    failed = deepfake("weights", "pull", NAME)
    assert (failed.exit_code, failed.stdout) == (3, "")
    assert failed.stderr.startswith("error: 127.0.0.1 cannot be reached") and failed.stderr.count("\n") == 1


def test_an_unknown_name_is_refused_before_anything_is_pulled(deepfake: Deepfake, server: FileServer) -> None:
    refused = deepfake("weights", "pull", NAME, "nothing")
    assert refused.exit_code == 2 and "unknown weights 'nothing'; known: " in refused.stderr
    assert server.asked == []

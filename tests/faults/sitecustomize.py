"""Imported by every Python that starts with this folder on its path: certain files make its decoders fail natively.

Videos do so by their names, cropped faces by their first bytes.

`crash` ends the process as a bad pointer would, `hang` never returns, `eat` takes 4 GB.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

MOST_EATEN = 80
READER, PICTURES = "pipelines.video.pyav_reader", "pipelines.system.image_files"


def fail(name: str) -> None:
    """What the decoder does to a file of this name, or of this content."""
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("hang"):
        time.sleep(3600)
    eaten = []
    while name.startswith("eat"):
        if len(eaten) < MOST_EATEN:
            eaten.append(bytearray(50_000_000))
        time.sleep(0.002)


class _Patched(Loader):
    """Loads the reader as it is, then puts `fail` before its decoding."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self.loader.exec_module(module)
        if module.__name__ == READER:
            _patch_reader(module)
        else:
            _patch_pictures(module)


def _patch_reader(module: Any) -> None:
    decode = module.PyAVReader.frames

    def frames(reader: Any, indices: Any) -> Iterator[Any]:
        fail(reader._path.name)
        yield from decode(reader, indices)

    module.PyAVReader.frames = frames


def _patch_pictures(module: Any) -> None:
    decode = module.decode_image

    def decode_image(data: bytes) -> Any:
        fail(data[:8].decode("latin-1"))
        return decode(data)

    module.decode_image = decode_image


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self.found: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in (READER, PICTURES) or name in self.found:
            return None
        self.found.add(name)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patched(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())

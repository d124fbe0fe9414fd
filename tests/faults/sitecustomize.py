"""Imported by every Python that starts with this folder on its path: files of certain names make its decoder fail natively.

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
READER = "pipelines.video.pyav_reader"


def fail(name: str) -> None:
    """What the decoder does to a file of this name."""
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
        decode = module.PyAVReader.frames

        def frames(reader: Any, indices: Any) -> Iterator[Any]:
            fail(reader._path.name)
            yield from decode(reader, indices)

        module.PyAVReader.frames = frames


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != READER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patched(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())

"""Checkpoints as ONNX files: names of input and outputs, and the header in their metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.checkpoints.checkpoint import CheckpointHeader, parse_header
from pipelines.errors import CheckpointError, ConfigError

SUFFIX = ".onnx"
INPUT = "images"
"""(N, S, S, 3) uint8, RGB, as `cut_input` gives it; the model normalises it."""
PROBABILITY = "fake_probability"
"""(N,) float32."""
FORGERY_MAP = "forgery_map"
"""(N, h, w) float32 in 0..1, of a network with a mask branch only; files made by earlier versions lack it."""
HEADER_KEY = "deepfake"
"""As in a safetensors checkpoint."""
SOURCE_KEY, SOURCE_SHA256_KEY = "deepfake_source", "deepfake_source_sha256"
EXTRAS = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "openvino": "openvino"}
"""The extra that installs each package."""


def is_onnx(name_or_file: str | Path) -> bool:
    return Path(name_or_file).suffix == SUFFIX


def import_extra(package: str) -> Any:
    """A package that only an extra installs, or a module of one.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        extra = EXTRAS[package.partition(".")[0]]
        raise ConfigError(
            f"{package} is not installed or does not load ({error}); pip install 'deepfake[{extra}]'"
        ) from error


def read_onnx_header(path: Path) -> CheckpointHeader:
    """The header of an ONNX file made by `export`.

    Raises:
        CheckpointError: not such a file.
        ConfigError: the package onnx is not installed.
    """
    onnx = import_extra("onnx")
    try:
        model = onnx.load_from_string(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's exception type depends on its build
        raise CheckpointError(f"{path} is not a whole ONNX file ({error}); make it again: deepfake export") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if HEADER_KEY not in metadata:
        raise CheckpointError(f"{path} has no preprocessing contract; pass an ONNX file made by: deepfake export")
    if any(tensor.external_data for part in (model.graph, *model.functions) for tensor in _tensors_in(part)):
        raise CheckpointError(f"{path} reads its weights from other files; pass an ONNX file made by: deepfake export")
    return parse_header(metadata[HEADER_KEY], path)


def _tensors_in(graph: Any) -> Iterator[Any]:
    """Weights and constants of a graph or of a function, also of branches and loops."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors_in(inner)


@contextmanager
def refusing_models(engine: str) -> Iterator[None]:
    """Report an engine's failure to use a model as one line.

    Raises:
        CheckpointError: in place of the engine's exception.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # each engine has its own exception types
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{engine} cannot use the ONNX model ({reason}); make it again: deepfake export"
        ) from error


def write_metadata(model: Any, header: CheckpointHeader, source: Mapping[str, str]) -> None:
    """Replace the metadata of an onnx.ModelProto with the header and the source of the weights.

    The exporter stores Python source lines and their paths on this machine at every node.
    """
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    functions = [part for function in model.functions for part in (function, *function.node)]
    for part in (graph, *graph.node, *values, *functions):
        del part.metadata_props[:]
        part.doc_string = ""
    entries = {HEADER_KEY: json.dumps(header.to_json(), sort_keys=True), **source}
    for key, value in sorted(entries.items()):
        model.metadata_props.add(key=key, value=value)

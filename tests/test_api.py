"""What `pipelines` exports: each name once, loaded on demand, and known to type checkers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

import pipelines
from pipelines import errors
from tests.support import REPOSITORY


def test_every_exported_name_can_be_imported_and_is_listed() -> None:
    for name in pipelines.__all__:
        assert getattr(pipelines, name) is not None, name
    assert set(pipelines.__all__) <= set(dir(pipelines))
    assert len(set(pipelines.__all__)) == len(pipelines.__all__)


def test_type_checkers_know_the_same_names() -> None:
    tree = ast.parse((REPOSITORY / "pipelines" / "__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    known = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert known == {
        name: f"pipelines.{pipelines._MODULE_OF[name]}.{name}" for name in pipelines.__all__ if name != "__version__"
    }


def test_every_error_is_exported() -> None:
    children = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert children <= set(pipelines.__all__)


def test_the_version_is_that_of_the_project() -> None:
    assert f'\nversion = "{pipelines.__version__}"\n' in (REPOSITORY / "pyproject.toml").read_text("utf-8")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        pipelines.unheard_of  # noqa: B018


def test_importing_the_library_loads_none_of_its_modules() -> None:
    code = (
        "import sys, pipelines; dir(pipelines); print([name for name in sys.modules if name.startswith('pipelines.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

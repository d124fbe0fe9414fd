"""The documents match the program: commands parse, modules are on the map, names can be imported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import pipelines
from deepfake_cli.app import app
from pipelines.config import ExtractConfig
from pipelines.records import EpochRow, FaceRow, FrameRow, ScoreRow, VideoRow, schema_of
from tests.support import REPOSITORY

DOCUMENTS = [path for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))) if path.is_file()]
MODULES = [
    path
    for package in ("deepfake_cli", "pipelines", "weights")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
    if path.name != "__init__.py" and "recipes" not in path.parts
]
CODE = [
    path
    for folder in ("deepfake_cli", "pipelines", "weights", "examples", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
PROGRAM = typer.main.get_command(app)
LEFT_OPEN = tuple("".join(parts) for parts in (("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("NotImpl", "ementedError")))
ANY_WORD = r"[A-Z][A-Z_0-9]+"
"""A value in a synopsis."""


def _fenced_lines(text: str) -> Iterator[str]:
    """The lines of code blocks that are typed: after `$` in a console block, all in others; continued ones joined."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines: list[str] = []
        for line in block.splitlines():
            if lines and (lines[-1].endswith("\\") or (line.startswith(" ") and lines[-1].startswith("deepfake"))):
                lines[-1] = f"{lines[-1].removesuffix(chr(92))} {line.strip()}"
            else:
                lines.append(line)
        if language == "console" or any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if language != "python":
            yield from lines


def _commands_in(line: str) -> Iterator[list[str]]:
    """The arguments of every `deepfake …` on a shell line."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        tokens = list(lexer)
    except ValueError:  # prose with an apostrophe
        return
    command: list[str] = []
    for token in [*tokens, ";"]:
        if set(token) <= set("|&;"):
            if command and Path(command[0]).name == "deepfake":
                yield command[1:]
            command = []
        else:
            command.append(token)


def _is_synopsis(line: str) -> bool:
    return any(mark in line for mark in ("…", "[-", "[INPUT")) or bool(re.search(r"\w\|\w", line))


def _examples(text: str) -> list[list[str]]:
    return [command for line in _fenced_lines(text) if not _is_synopsis(line) for command in _commands_in(line)]


def _synopses(text: str) -> list[list[str]]:
    """Synopses in blocks, and every `deepfake …` between backticks."""
    lines = [line for line in _fenced_lines(text) if _is_synopsis(line) and line.startswith("deepfake ")]
    lines += re.findall(r"(?<!`)`(deepfake [^`\n]+)`(?!`)", text)
    return [[word for word in re.split(r"[\s\[\]|…]+", line)[1:] if word] for line in lines]


def _find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words after it."""
    command: Any = PROGRAM
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            return command, words
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def _options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}


def _parse(words: list[str]) -> Any:
    """The command that the program would run, with these options."""
    context = PROGRAM.make_context("deepfake", list(words))
    remaining = [*getattr(context, "_protected_args", []), *context.args]
    command: Any = PROGRAM
    while hasattr(command, "commands"):
        name, command, remaining = command.resolve_command(context, remaining)
        context = command.make_context(name, list(remaining), parent=context)
        remaining = [*getattr(context, "_protected_args", []), *context.args]
    return command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_parses(document: Path) -> None:
    for words in _examples(document.read_text("utf-8")):
        try:
            assert _parse(words).callback is not None
        except typer.Exit:  # --version, --help
            pass


def test_examples_are_found_in_the_documents() -> None:
    assert sum(len(list(_examples(document.read_text("utf-8")))) for document in DOCUMENTS) > 20


def _examples_in_help(command: Any = PROGRAM) -> Iterator[str]:
    yield command.epilog
    for child in getattr(command, "commands", {}).values():
        yield from _examples_in_help(child)


@pytest.mark.parametrize("epilog", list(_examples_in_help()))
def test_every_example_in_the_help_parses(epilog: str) -> None:
    (words,) = _commands_in(epilog.removeprefix("Example: "))
    assert _parse(words).callback is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_and_option_in_a_synopsis_exists(document: Path) -> None:
    for words in _synopses(document.read_text("utf-8")):
        if words and re.fullmatch(ANY_WORD, words[0]):
            continue
        command, rest = _find(words)
        for word in rest:
            if word.startswith("-") and word != "-":
                assert word in _options_of(command), f"{' '.join(words)}: there is no option {word}"


def test_the_reference_names_every_command() -> None:
    reference = (REPOSITORY / "docs" / "reference.md").read_text("utf-8")
    named = {words[0] for words in _synopses(reference) if words}
    assert set(PROGRAM.commands) <= named  # type: ignore[attr-defined]


def test_the_checks_above_find_something() -> None:
    text = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    assert len(_examples(text)) >= 3 and len(_synopses(text)) >= 7
    assert [list(_commands_in("find . -name 'a b' | bin/deepfake predict - && deepfake weights list  # all"))] == [
        [["predict", "-"], ["weights", "list"]]
    ]
    with pytest.raises(AssertionError, match="no command 'unheard-of'"):
        _find(["unheard-of"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_imports_exists(document: Path) -> None:
    for names in re.findall(r"from pipelines import ([\w, ]+)", document.read_text("utf-8")):
        for name in names.split(","):
            assert hasattr(pipelines, name.strip()), name


def test_the_map_shows_every_module_and_no_other() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
    shown = set(re.findall(r"[\w]+\.py\b", text))
    assert {path.name for path in MODULES} <= shown
    known = {path.name for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts}
    assert shown <= known


def test_the_reference_lists_every_column() -> None:
    text = (REPOSITORY / "docs" / "reference.md").read_text("utf-8")
    words = set(re.findall(r"\w+", text))
    for row_type in (VideoRow, FrameRow, FaceRow, EpochRow, ScoreRow):
        for column in schema_of(row_type).names:
            landmark = re.fullmatch(r"(left_eye|right_eye|nose|left_mouth|right_mouth)_[xy](_crop)?_px", column)
            assert (landmark[1] if landmark else column) in words, column


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_placeholder_is_left_in_a_document(document: Path) -> None:
    assert not re.search(r"@@\w*@@", document.read_text("utf-8"))


def test_the_message_that_the_documents_quote_is_the_one_that_is_shown() -> None:
    text = (REPOSITORY / "docs" / "reference.md").read_text("utf-8")
    assert f"frames was {ExtractConfig.frames} and is now 64" in text


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_code_is_left_open(path: Path) -> None:
    text = path.read_text("utf-8")
    assert [word for word in LEFT_OPEN if word in text] == []

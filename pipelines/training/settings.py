"""Settings by path: nested frozen dataclasses read and changed as `ril.weight`, for `--set`, manifests and messages."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from pipelines.errors import ConfigError

Config = TypeVar("Config")


def list_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """All settings: values by path."""
    settings: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        path = prefix + each.name
        settings.update(list_settings(value, f"{path}.") if is_dataclass(value) else {path: value})
    return settings


def replace_settings(config: Config, changes: Mapping[str, Any], prefix: str = "") -> Config:
    """The config with some settings changed; a setting is named by its path, or by its last part if that is unique.

    Messages put `prefix` before the names.

    Raises:
        ConfigError: an unknown or ambiguous name, or an invalid value; the message lists the valid ones.
    """
    known = list_settings(config)
    nested: dict[str, dict[str, Any]] = {}
    own: dict[str, Any] = {}
    for name, value in changes.items():
        path = _find_path(name, known)
        head, _, rest = path.partition(".")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            own[path] = value
    hints = typing.get_type_hints(type(config))
    values = {name: _parse(value, hints[name], prefix + name) for name, value in own.items()}
    for head, inner in nested.items():
        values[head] = replace_settings(getattr(config, head), inner, f"{prefix}{head}.")
    return replace(config, **values)  # type: ignore[type-var]


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """`["ril.weight=0.5"]` as a dict.

    Raises:
        ConfigError: no `=`.
    """
    pairs = [text.partition("=") for text in assignments]
    for (name, sign, _), text in zip(pairs, assignments, strict=True):
        if not sign or not name.strip():
            raise ConfigError(f"--set takes NAME=VALUE, such as ril.weight=0.5, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _find_path(name: str, known: Mapping[str, Any]) -> str:
    if name in known:
        return name
    matches = [path for path in known if path.rpartition(".")[2] == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"the setting {name!r} could be {' or '.join(matches)}; give it in full")
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    remedy = f"did you mean {', '.join(close)}?" if close else "--show-settings lists them all"
    raise ConfigError(f"there is no setting {name!r}; {remedy}")


def _parse(value: Any, hint: Any, name: str) -> Any:
    """Convert a value to the setting's type; text is parsed as on the command line."""
    if isinstance(hint, types.UnionType):
        return None if value is None or str(value).lower() == "none" else _parse(value, typing.get_args(hint)[0], name)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        items = value.replace(",", " ").split() if isinstance(value, str) else value
        inner = typing.get_args(hint)
        if not isinstance(items, list | tuple) or len(items) != len(inner):
            raise ConfigError(f"{name} takes {len(inner)} values, got {value!r}")
        return tuple(_parse(item, kind, name) for item, kind in zip(items, inner, strict=True))
    if hint is bool:
        return _parse_bool(value, name)
    try:
        if isinstance(value, bool) or (hint is int and isinstance(value, float)):
            raise ValueError
        return hint(value)
    except (TypeError, ValueError):
        kind = {int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))
        raise ConfigError(f"{name} must be {kind}, got {value!r}") from None


def _parse_bool(value: Any, name: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    parsed = known.get(str(value).lower())
    if parsed is None:
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    return parsed

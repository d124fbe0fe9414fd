"""The result of one check; a check that fails does not end the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import DeepfakeError

FindingLevel = Literal["ok", "note", "broken"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    """What was looked at: a package, `gpu`, `disk`."""
    level: FindingLevel
    """note: good to know, the program works; broken: something that it needs does not."""
    message: str
    remedy: str | None = None
    """What to do about it."""


Check = Callable[[], list[Finding]]


def run_check(name: str, check: Check) -> list[Finding]:
    """What a check finds; one that fails is itself a finding."""
    try:
        return check()
    except DeepfakeError as error:
        return [Finding(name, "broken", str(error))]
    except Exception as error:  # doctor reports every failure; the traceback goes to the log
        log.debug("the check of %s failed", name, exc_info=True)
        message = f"could not be checked: {type(error).__name__}: {error}"
        return [Finding(name, "broken", message, "correct what is broken above; if nothing is, report this line")]

"""Kills every command hundreds of times at random moments, and prints the outcomes as a Markdown table.

    python -m tests.reliability --kills 400 --seed 1 [--json FILE] [--only COMMAND]

Commands take turns. The last two rows of the table are runs with worker processes, ended by SIGKILL at any time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from tests.reliability.soak import Soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--json", type=Path, help="where the table goes as JSON, too, with the story of what went wrong"
    )
    parser.add_argument("--only", help="one command")
    options = parser.parse_args()
    soak = Soak(options.kills, options.seed, options.only)
    code = pytest.main(["-q", "-s", "-p", "no:cacheprovider", str(Path(__file__).with_name("soak.py"))], plugins=[soak])
    print(soak.to_markdown())
    if options.json:
        options.json.write_text(json.dumps(soak.to_json(), indent=1))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

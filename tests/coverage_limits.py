"""Fails when the tests cover too little: `python -m tests.coverage_limits coverage.json`.

coverage's own limit is for lines and branches taken together; here each has its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LINES, BRANCHES = 95.0, 90.0  # percent


def shortfalls(totals: dict[str, float]) -> list[str]:
    """Say which of the two limits the totals of a JSON report of coverage fall short of."""
    found = []
    for what, limit in (("statements", LINES), ("branches", BRANCHES)):
        covered = totals[f"percent_{what}_covered"]
        if covered < limit:
            found.append(f"{covered:.1f} % of the {what} are covered, and not {limit:g} %")
    return found


def main(report: str) -> int:
    found = shortfalls(json.loads(Path(report).read_text(encoding="utf-8"))["totals"])
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

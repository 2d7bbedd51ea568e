"""`make bench-page`: the benchmark's part of docs/performance.md, from `results/latest.json`.

What stands between the two marks is written here; what stands around them is written by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.ratios import RATIOS, TITLES, title

ROOT = Path(__file__).resolve().parent.parent
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- written by `make bench-page` -->", "<!-- end of what it writes -->"


def latest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(LATEST.read_text(encoding="utf-8"))
    return found


def fingerprint(result: dict[str, Any]) -> str:
    """Return what the charts carry, so that a test can tell which numbers they were drawn from."""
    text = json.dumps(result["measurements"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def section(result: dict[str, Any]) -> str:
    """Return what stands between the marks."""
    return "\n".join([_origin(result), "", *_ratios(result), "", *_figures(result)])


def _origin(result: dict[str, Any]) -> str:
    """Where, when and on what it was measured."""
    machine, sizes = result["machine"], result["sizes"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    events = f"{sizes['relay']:,} events for a relay and {sizes['consume']:,} for a worker"
    lines = [
        result["note"],
        f"Measured on {result['date']} at commit `{result['commit'][:12]}`: "
        f"{result['rounds']} rounds, {events}, fewer for what is slow.",
        f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}. {versions}.",
    ]
    return "\n".join(filter(None, lines))


def _ratios(result: dict[str, Any]) -> Iterable[str]:
    yield "| ratio | | goal | measured | reached |"
    yield "|---|---|---|---|---|"
    for name, value in result["ratios"].items():
        ratio = RATIOS[name]
        reached = "yes" if ratio.reached(value) else "**no**"
        yield f"| `{name}` | {ratio.meaning} | {ratio.goal} | {value:.2f} | {reached} |"


def _figures(result: dict[str, Any]) -> Iterable[str]:
    yield "| measurement | median | lowest to highest round | |"
    yield "|---|---|---|---|"
    measured = result["measurements"]
    for name in (name for name in TITLES if name in measured):
        unit, rounds = measured[name]["unit"], measured[name]["rounds"]
        median, low, high = (
            _number(value, unit) for value in (measured[name]["median"], min(rounds), max(rounds))
        )
        yield f"| {title(name, result['sizes'])} | {median} | {low} to {high} | {unit} |"


def _number(value: float, unit: str) -> str:
    return f"{value:,.1f}" if unit == "ms" else f"{value:,.0f}"


def written(page: str, result: dict[str, Any]) -> str:
    """Return `page` with the section of `result` between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"{PAGE.name} has no place for the benchmark: write the line {BEGIN!r} where its "
            f"tables begin, and {END!r} where they end"
        )
    return f"{before}{BEGIN}\n\n{section(result)}\n\n{END}{after}"


def main() -> None:
    text = written(PAGE.read_text(encoding="utf-8"), latest())
    PAGE.write_text(text, encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""`make bench-page`: the benchmark's parts of docs/performance.md, from `benchmarks/results`.

What stands between two marks is written here; what stands around them is written by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.ratios import RATIOS, TITLES, by_round, title

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LATEST, GROWTH = "latest", "growth"  # the results that the page shows
PAGE = ROOT / "docs" / "performance.md"


def result_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def marks(name: str) -> tuple[str, str]:
    """Return the lines between which the section of a result stands."""
    return f"<!-- from {name}.json, by `make bench-page` -->", f"<!-- end of {name}.json -->"


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
    yield "| ratio | | goal | measured | lowest to highest round | reached |"
    yield "|---|---|---|---|---|---|"
    rounds = {name: measured["rounds"] for name, measured in result["measurements"].items()}
    for name, value in result["ratios"].items():
        ratio, each = RATIOS[name], by_round(name, rounds)
        reached = "yes" if ratio.reached(value) else "**no**"
        spread = f"{min(each):.2f} to {max(each):.2f}"
        yield f"| `{name}` | {ratio.meaning} | {ratio.goal} | {value:.2f} | {spread} | {reached} |"


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
    if unit == "times":
        return f"{value:.2f}"
    return f"{value:,.1f}" if unit == "ms" else f"{value:,.0f}"


def written(page: str, name: str, result: dict[str, Any]) -> str:
    """Return `page` with the section of `result`, called `name`, between its marks."""
    begin, end = marks(name)
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(
            f"{PAGE.name} has no place for {name}.json: write the line {begin!r} where its "
            f"tables begin, and {end!r} where they end"
        )
    return f"{before}{begin}\n\n{section(result)}\n\n{end}{after}"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (LATEST, GROWTH):
        text = written(text, name, result_of(name))
    PAGE.write_text(text, encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

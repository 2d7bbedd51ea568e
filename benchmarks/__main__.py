"""`make bench`: the bridge beside bare limits and peers on the same work, in one run, as ratios.

Figures vary from machine to machine and from run to run; the ratios are what to look at. All
measurements of a round follow one another, every second round backwards, so that what else the
machine does meets all of them; a measurement's figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "<<cookiecutter.service_slug>>"))

from benchmarks import machine  # noqa: E402
from benchmarks.measurements import QUICK, Sizes  # noqa: E402
from benchmarks.plan import ONCE, PARTS, Measure, measures  # noqa: E402
from benchmarks.ratios import by_round, ratios, title, unit  # noqa: E402
from benchmarks.stage import Stage  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
WITH_PEERS = ("relay", "consume")  # parts
GROWTH = "growth"  # the part that is no part of a whole run, and has a result of its own
MEASUREMENT_LIMIT = 900.0  # seconds, with all that it prepares
Rounds = dict[str, list[float]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parts = (*PARTS, GROWTH)
    parser.add_argument("--only", choices=parts, help="measure one part and write no latest.json")
    parser.add_argument("--quick", action="store_true", help="one round of less; for a first look")
    parser.add_argument("--rounds", type=int, help="runs of each; the median counts (default: 5)")
    parser.add_argument("--minutes", type=float, default=24, help="begin no round that passes it")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the events, like 0.5")
    parser.add_argument("--peers", type=Path, help="the Python of the peers' environment")
    parser.add_argument("--note", default="", help="a sentence about the run")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 5)
    if not 0.05 <= given.scale <= 10:
        parser.error(
            f"--scale: {given.scale:g} is not from 0.05 to 10; leave it out for a whole run"
        )
    if given.rounds < 1:
        parser.error(f"--rounds: {given.rounds} is too few; write 1 or more")
    if given.peers is not None:
        given.peers = given.peers.absolute()  # and not resolved: a link into an environment counts
        if not given.peers.exists():
            parser.error(f"--peers: there is no {given.peers.name}; `make bench` sets it up")
    elif given.only in (None, *WITH_PEERS):
        parser.error("--peers is needed for this part; `make bench` sets their environment up")
    return given


def sizes_of(given: argparse.Namespace) -> Sizes:
    return QUICK if given.quick else Sizes().scaled(given.scale)


async def measure(stage: Stage, given: argparse.Namespace) -> Rounds:
    """Run all measurements, round by round; return the values of each."""
    found: Rounds = defaultdict(list)
    sizes = sizes_of(given)
    chosen = measures(given.only)
    began = time.monotonic()
    for number in range(given.rounds):
        if number and (time.monotonic() - began) * (number + 1) / number > 60 * given.minutes:
            print(f"\none more round would pass {given.minutes:g} minutes: it ends here")
            break
        print(f"\nround {number + 1} of {given.rounds}", flush=True)
        for one in chosen if number % 2 == 0 else reversed(chosen):
            if number and one in ONCE:
                continue
            await _measure_one(stage, one, sizes, found)
    return found


async def _measure_one(stage: Stage, one: Measure, sizes: Sizes, found: Rounds) -> None:
    began = time.monotonic()
    async with asyncio.timeout(MEASUREMENT_LIMIT):
        values = await one(stage, sizes)
    took = time.monotonic() - began
    for name, value in values.items():
        found[name].append(value)
        called = title(name, asdict(sizes))
        print(f"  {called:<64}{value:>10,.1f} {unit(name):<9}{took:>5.0f} s", flush=True)


def origin(given: argparse.Namespace, stage: Stage) -> dict[str, object]:
    """Return on what it is measured; asked at the start, since files may change during the run."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "note": given.note,
        "machine": machine.machine(),
        "versions": machine.versions(stage.postgres, given.peers),
        "commit": machine.commit(),
    }


def result(found: Rounds, sizes: Sizes) -> dict[str, object]:
    """Return what is written beside its origin: the measurements and the ratios."""
    kept = {name: [round(value, 2) for value in values] for name, values in found.items()}
    return {
        "rounds": max(map(len, found.values())),
        "sizes": asdict(sizes),
        "measurements": {
            name: {
                "unit": unit(name),
                "median": round(statistics.median(values), 2),
                "rounds": values,
            }
            for name, values in sorted(kept.items())
        },
        "ratios": ratios(kept),
    }


def write(outcome: dict[str, object], given: argparse.Namespace) -> Path:
    """Write `latest.json` or `growth.json`, or `part.json` for what is not a whole run."""
    RESULTS.mkdir(exist_ok=True)
    kept = {None: "latest.json", GROWTH: "growth.json"}
    path = RESULTS / ("part.json" if given.quick else kept.get(given.only, "part.json"))
    path.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    return path


def main() -> None:
    given = arguments()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers are stopped for it too
    with Stage(given.peers) as stage:
        told = origin(given, stage)
        found = asyncio.run(measure(stage, given))
    outcome = told | result(found, sizes_of(given))
    path = write(outcome, given)
    print("\nratios")
    for name, value in ratios(found).items():
        each = by_round(name, found)
        print(f"  {name:<64}{value:>10.2f}   {min(each):.2f} to {max(each):.2f}")
    took = time.monotonic() - began
    print(f"\nwritten to {path.relative_to(ROOT)} after {took:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")

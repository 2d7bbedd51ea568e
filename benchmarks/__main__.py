"""`make bench`: the bridge beside the bare limit on the same work, in one run, as ratios.

The bare limit is what asyncpg and nats-py reach by hand with nothing but the work itself. Figures
vary from machine to machine and from run to run; the ratios are what to look at. Everything runs
on servers started here: PostgreSQL and nats-server from their wheels, on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "<<cookiecutter.service_slug>>"))


from benchmarks import bare, ours  # noqa: E402
from jetstream_bridge.testing.postgres import PostgresServer  # noqa: E402
from jetstream_bridge.testing.servers import NatsServer  # noqa: E402

Measurement = Callable[[str, str, int], Awaitable[float]]

RELAY: dict[str, Measurement] = {
    "bare limit (own acks, batches of 1,000)": bare.relay,
    "relay": ours.relay,
    "relay, 50 hot resources": ours.relay_hot,
}
CONSUME: dict[str, Measurement] = {
    "bare limit (batches of 500)": bare.consume_batches,
    "bare, a commit for each message": bare.consume_each,
    "worker": ours.consume,
}


async def measure(measurement: Measurement, number: int, rounds: int) -> list[float]:
    """Run one measurement `rounds` times, each on empty servers; return events per second."""
    results = []
    for _ in range(rounds):
        with NatsServer() as nats, PostgresServer() as postgres:
            url = postgres.create_database()
            results.append(await asyncio.wait_for(measurement(url, nats.url, number), 300))
    return results


async def table(
    title: str, measurements: dict[str, Measurement], number: int, rounds: int
) -> dict[str, object]:
    """Measure all of a table, print it, and return it for the JSON file."""
    print(f"\n{title}: {number:,} events, median of {rounds}")
    print(f"  {'':44}{'events/s':>10}{'of the limit':>14}")
    limit = 0.0
    rows: dict[str, object] = {}
    for name, measurement in measurements.items():
        results = await measure(measurement, number, rounds)
        median = statistics.median(results)
        limit = limit or median
        print(f"  {name:44}{median:>10,.0f}{median / limit:>14.2f}", flush=True)
        rows[name] = {"events_per_second": results, "ratio": round(median / limit, 3)}
    return {"events": number, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--relay", type=int, default=20_000, help="rows to drain")
    parser.add_argument("--consume", type=int, default=10_000, help="events to handle")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--only", choices=["relay", "consume"], help="one table only")
    arguments = parser.parse_args()

    async def run() -> dict[str, object]:
        found: dict[str, object] = {}
        if arguments.only != "consume":
            found["relay"] = await table(
                "Relay, PostgreSQL to JetStream", RELAY, arguments.relay, arguments.rounds
            )
        if arguments.only != "relay":
            found["consume"] = await table(
                "Worker, one inbox row and one business row for each event",
                CONSUME,
                arguments.consume,
                arguments.rounds,
            )
        return found

    results = uvloop.run(run())  # the loop that the service's processes run on
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {path.relative_to(ROOT)}")


main()

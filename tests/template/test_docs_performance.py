"""The benchmark's page shows its last results, and an interrupted run leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from benchmarks.charts import CHARTS
from benchmarks.page import (
    GROWTH,
    LATEST,
    PAGE,
    RESULTS,
    fingerprint,
    marks,
    result_of,
    section,
    written,
)
from benchmarks.ratios import RATIOS, TITLES, ratios, title
from tests.template.baking import ROOT, clean_environment
from tests.waiting import eventually

REQUIRED_OF_GROWTH = {
    "relay_slowdown_1m_sent",
    "relay_slowdown_5m_sent",
    "relay_slowdown_backlog_1m",
    "consume_slowdown_5m_processed",
    "consume_slowdown_backlog_1m",
    "hour_relay_memory_growth",
    "hour_worker_memory_growth",
    "hour_outbox_growth",
    "hour_inbox_growth",
}
REQUIRED = {
    "relay_vs_raw",
    "relay_hot_vs_raw",
    "relay_vs_txoutbox",
    "relay_vs_faststream_outbox",
    "consume_vs_raw_each",
    "consume_vs_raw_batch",
    "consume_batch_handler_vs_raw_each",
    "consume_vs_faststream",
    "post_outbox_overhead",
    "relay_slowdown_1m_sent",
    "relay_slowdown_50k_blocked",
    "relay_slowdown_open_snapshot",
    "latency_p50_ms",
    "latency_p99_ms",
}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return result_of(LATEST)


@pytest.fixture(scope="module", params=[LATEST, GROWTH])
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def test_the_page_shows_the_last_result(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    begin, end = marks(name)
    shown = page.partition(begin)[2].partition(end)[0].strip()
    assert shown == section(result_of(name))
    assert written(page, name, result_of(name)) == page


def test_another_result_makes_another_page(result: dict[str, Any]) -> None:
    rounds = {"relay": [1.0, 3.0, 2.0], "relay_raw": [10.0, 10.0, 10.0]}
    changed = {
        **result,
        "ratios": {"relay_vs_raw": 0.123},
        "measurements": {
            name: {"unit": "events/s", "median": 1.0, "rounds": each}
            for name, each in rounds.items()
        },
    }
    row = "| relay to the bare loop | at least 0.8 | 0.12 | 0.10 to 0.30 | **no** |"
    assert f"| `relay_vs_raw` {row}" in section(changed)


def test_a_page_without_the_marks_says_what_is_missing(result: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="write the line"):
        written("# Performance\n", LATEST, result)


def test_every_chart_was_drawn_from_the_last_result(result: dict[str, Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for file in CHARTS:
        assert f"(images/{file})" in page
        assert fingerprint(result).encode() in (ROOT / "docs/images" / file).read_bytes(), file


def test_medians_and_ratios_are_those_of_the_rounds(name: str) -> None:
    result = result_of(name)
    rounds = {}
    for called, measured in result["measurements"].items():
        rounds[called] = measured["rounds"]
        assert len(measured["rounds"]) == (1 if called.startswith("hour") else result["rounds"])
        assert measured["median"] == pytest.approx(statistics.median(measured["rounds"]), abs=0.01)
    assert result["ratios"] == ratios(rounds)
    assert all(title(called, result["sizes"]) for called in rounds)


def test_a_ratio_is_the_median_of_what_it_was_in_each_round() -> None:
    """And not that of two medians, which may come from different rounds."""
    found = ratios({"relay": [10.0, 60.0, 20.0], "relay_raw": [20.0, 100.0, 25.0]})
    assert found == {"relay_vs_raw": 0.6}


def test_every_measurement_and_every_ratio_has_a_result(result: dict[str, Any]) -> None:
    assert result["rounds"] >= 5 or result["note"]  # a run that had to end early says why
    growth = result_of(GROWTH)
    assert growth["rounds"] >= 3
    assert set(result["ratios"]) | set(growth["ratios"]) == set(RATIOS)
    assert set(result["measurements"]) | set(growth["measurements"]) == set(TITLES)
    assert set(result["ratios"]) >= REQUIRED
    assert set(growth["ratios"]) >= REQUIRED_OF_GROWTH


def test_the_result_names_machine_versions_and_commit_and_no_host_or_path(name: str) -> None:
    result = result_of(name)
    assert set(result["machine"]) == {"cpu", "cores", "system"}
    assert {"python", "nats-server", "postgresql", "nats-py", "asyncpg", "sqlalchemy"} < set(
        result["versions"]
    )
    assert re.fullmatch("[0-9a-f]{40}", result["commit"])  # and not -dirty
    text = (RESULTS / f"{name}.json").read_text(encoding="utf-8")
    assert not re.search(r'["\s](/|[A-Z]:\\)', text)


@pytest.fixture
def running_benchmark() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "post"],
        cwd=ROOT,
        env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_take_interrupts,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=30)


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores them


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_leaves_no_process(
    running_benchmark: subprocess.Popen[str], number: int
) -> None:
    children: list[psutil.Process] = []

    def all_run() -> bool:
        assert running_benchmark.poll() is None, running_benchmark.communicate()
        children[:] = psutil.Process(running_benchmark.pid).children(recursive=True)
        commands = " ".join(_command(child) for child in children)
        return all(part in commands for part in ("postgres", "nats-server", "benchmarks.service"))

    await eventually(all_run, limit=60)
    os.kill(running_benchmark.pid, number)
    _, errors = running_benchmark.communicate(timeout=60)
    assert (running_benchmark.returncode, errors) == (1, "interrupted; nothing was written\n")
    assert psutil.wait_procs(children, timeout=10)[1] == []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""

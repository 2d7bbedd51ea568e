"""A real Prometheus scrapes a running pair: every panel has a curve, and every rule is evaluated.

Prometheus is no package of Python's: `.ci/alerts` brings Debian's. Two services on PostgreSQL and
NATS, with events that arrive, one that fails for good and one that nobody may send.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import yaml

from demo.customers import both_sides
from demo.pair import ENV, Pair
from demo.processes import Process
from demo.servers import free_port
from tests.template.baking import clean_environment
from tests.template.test_monitoring import ALERTS, DASHBOARD, FOLDER, PANELS, RULES
from tests.template.two_services import PARTS

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
    pytest.mark.timeout(300),
]
PROMETHEUS = shutil.which("prometheus") or "prometheus"
SETTINGS = {"MAX_DELIVER": "2", "BACKOFF": "0.5s"}
LIMIT = 90.0  # seconds for rates to be there: they want two scrapes
EVERY = "1s"  # between two scrapes, and two evaluations
CONFIGURATION = {
    "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
    "rule_files": ["alerts.yaml"],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with Pair(folder, database="postgresql", settings=SETTINGS, parts=PARTS) as pair:
        pair.generate()
        pair.start_servers()
        pair.migrate()
        pair.start_services()
        yield pair


class Prometheus:
    """Asks a running one."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=10)

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now; raises where Prometheus does not take it."""
        answer = self._client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}\n{answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def prometheus(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    shutil.copy(FOLDER / "alerts.yaml", folder)
    targets = [
        address.removeprefix("http://")
        for service in pair.services
        for address in (service.url, service.worker_url)
    ]
    scrape = [{"job_name": "services", "static_configs": [{"targets": targets}]}]
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({**CONFIGURATION, "scrape_configs": scrape})
    )
    process = Process(
        "prometheus",
        [
            PROMETHEUS,
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        folder=folder,
        environment=clean_environment(),
        log_file=folder / "log",
    ).start()
    asked = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(asked.is_ready, "Prometheus is ready", process=process)
        yield asked
    finally:
        asked.close()
        process.stop(grace=10)


def until(
    condition: Callable[[], bool],
    what: str,
    so_far: Callable[[], object] = str,
    process: Process | None = None,
) -> None:
    """Wait for it while `process` runs; beyond the limit the error ends with `so_far()`."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process is None or process.is_running, process.last_lines(20)
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT:g} s. {so_far()}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def busy(pair: Pair, prometheus: Prometheus) -> Prometheus:
    """A Prometheus that has seen events go out, come in and become a dead letter, for a while."""

    def work() -> bool:
        with both_sides(pair) as sides:
            for side in sides:
                side.create("Ada Lovelace")
        httpx.post(f"{pair.services[0].url}/trials/poison/1", timeout=10).raise_for_status()
        return len(prometheus.query("bridge:slo_errors:ratio_rate5m >= 0")) == 6

    until(work, "all objectives of both services have a rate")
    return prometheus


def test_every_target_is_up(busy: Prometheus) -> None:
    assert [series["value"][1] for series in busy.query("up")] == ["1"] * 4


def filled(expression: str) -> str:
    """As Grafana sends it, for all processes of `orders`."""
    for name, value in {
        "$__rate_interval": "1m",
        "$environment": ENV,
        "$instance": ".+",
        "$app": "orders",
    }.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("panel", [p for p in PANELS if p.get("targets")], ids=lambda p: p["title"])
def test_every_panel_has_a_curve(busy: Prometheus, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert busy.query(filled(target["expr"])), target["expr"]


def test_every_choice_of_the_dashboard_finds_something(busy: Prometheus) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
            assert busy.query(filled(selector)), variable["name"]


def test_every_rule_is_evaluated_and_says_what_is_so(busy: Prometheus) -> None:
    until(lambda: all(rule["health"] == "ok" for rule in busy.rules()), "every rule is evaluated")
    assert len(busy.rules()) == len(RULES)
    until(lambda: states(busy)["DeadLetters"] != "inactive", "the dead letter is noticed")
    quiet = {rule["alert"] for rule in ALERTS} - {
        "DeadLetters",
        "DeadLettersGrowing",
        "ErrorBudgetBurnsFast",
        "ErrorBudgetBurnsSlowly",
        "HandlersFailing",
    }
    # Work has ended, so what had begun to wait amid it ends again: a lag that was read amid an
    # event is read anew. A worker's first events have no rate before its second ones.
    seen: dict[str, str] = {}

    def is_quiet() -> bool:
        seen.update({name: state for name, state in states(busy).items() if name in quiet})
        assert "firing" not in seen.values(), seen
        return seen == dict.fromkeys(quiet, "inactive")

    until(is_quiet, "every other alert is quiet", lambda: seen)


def states(prometheus: Prometheus) -> dict[str, str]:
    return {rule["name"]: rule["state"] for rule in prometheus.rules() if "state" in rule}

"""Alerts and dashboard name what a service really exports, and the alerts fire when they should."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jetstream_bridge.inbox.middleware.metrics import END_TO_END_BUCKETS
from jetstream_bridge.outbox.metrics import DELIVERY_BUCKETS
from tests.template.baking import ROOT, TEMPLATE
from tests.template.on_the_mock import body_of, eventually, make_event, migrated, processes

FOLDER = TEMPLATE / "deploy" / "monitoring"
SCALED = TEMPLATE / "deploy" / "kubernetes" / "components" / "keda" / "scaled-object.yaml"
UNIT_TESTS = ROOT / "tests" / "template" / "monitoring" / "alerts_test.yaml"
OPERATIONS = (TEMPLATE / "docs" / "operations.md").read_text(encoding="utf-8")
# What Prometheus itself adds to each series of a target, and to a histogram's buckets.
TARGET = {"job", "instance"}
OF_PROMETHEUS = {"up": TARGET}

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: {"app", "env", "slo"} for rule in RULES if "record" in rule}
RECORDED["bridge:slo_error_budget"] = {"slo"}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

_PUBLISHED = re.compile(r'^bridge_published_total\{result="published"\} [1-9]', re.MULTILINE)

Exposed = dict[str, set[str]]  # the labels of each series, by its name


async def _scrape(database_url: str) -> str:
    """Both processes' `/metrics`, after an event has gone out and one has come in."""
    async with processes(database_url) as running:
        await eventually(running.is_ready, what="both processes are ready")
        customer = {"name": "Ada", "email": "ada@example.org"}
        assert (await running.api.post("/customers", json=customer)).status_code == 201
        theirs = make_event("customer.created", {"id": "c1", "version": 1} | customer)
        running.server.put("test.billing.sync.orders", body_of({**theirs, "producer": "billing"}))

        async def counted() -> bool:
            text = (await running.worker.get("/metrics")).text
            return 'outcome="processed"' in text and _PUBLISHED.search(text) is not None

        await eventually(counted, what="the event is counted")
        return (await running.api.get("/metrics")).text + (
            await running.worker.get("/metrics")
        ).text


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Exposed:
    url = migrated(tmp_path_factory.mktemp("scraped"))
    found: Exposed = {}
    for family in text_string_to_metric_families(asyncio.run(_scrape(url))):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def scaling() -> str:
    """What KEDA asks Prometheus, to find out how many workers there should be."""
    (trigger,) = yaml.safe_load(SCALED.read_text(encoding="utf-8"))["spec"]["triggers"]
    query: str = trigger["metadata"]["query"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    return query


def selectors(expression: promql.Expr) -> list[promql.VectorSelector]:
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            found.append(node)

    promql.walk(expression, visit)
    return found


def grouping(expression: promql.Expr) -> set[str]:
    """The labels by which something is aggregated or joined."""
    found: set[str] = set()

    def visit(node: promql.Expr) -> None:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found.update(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None:
            matching = node.modifier.matching
            found.update(matching.labels if matching is not None else ())

    promql.walk(expression, visit)
    return found


def faults(text: str, exposed: Exposed) -> list[str]:
    """What an expression names that no process exports."""
    expression = promql.parse(text)
    known = exposed | OF_PROMETHEUS | RECORDED
    found: list[str] = []
    there = set(TARGET)
    for selector in selectors(expression):
        name = selector.name or ""
        if name not in known:
            found.append(f"no process exports {name!r}")
            continue
        labels = known[name] | TARGET
        there |= labels
        asked = [matcher.name for matcher in selector.matchers.matchers]
        found += [f"{name} has no label {label}" for label in asked if label not in labels]
    return [*found, *(f"nothing has the label {label}" for label in grouping(expression) - there)]


# A series of each metric that services, operators and other tools may rely on, and its labels.
PROMISED: Exposed = {
    "bridge_outbox_pending": set(),
    "bridge_outbox_failed": set(),
    "bridge_outbox_oldest_pending_seconds": set(),
    "bridge_database_oldest_transaction_seconds": set(),
    "bridge_database_dead_rows": set(),
    "bridge_published_total": {"result"},
    "bridge_publish_seconds_count": set(),
    "bridge_delivery_seconds_count": set(),
    "bridge_consumed_total": {"event_type", "outcome"},
    "bridge_handler_seconds_count": {"event_type"},
    "bridge_end_to_end_seconds_count": set(),
    "bridge_consumer_lag": set(),
    "bridge_dlq_messages": set(),
    "bridge_nats_connected": set(),
    "bridge_ready": {"check"},
    "bridge_info": {"app", "env"},
    "bridge_task_deaths_total": {"task"},
}


def test_every_metric_that_is_promised_is_exported_with_its_labels(exposed: Exposed) -> None:
    assert {name: exposed.get(name) for name in PROMISED} == PROMISED


def test_each_expression_names_metrics_and_labels_that_exist(exposed: Exposed) -> None:
    everywhere = [*expressions(), ("KEDA", scaling())]
    assert "(bridge_consumer_lag >= 0)" in scaling()  # NaN, which is not known, is no number
    for where, text in everywhere:
        assert selectors(promql.parse(text)) or where == "bridge:slo_error_budget", where
    wrong = [(where, fault) for where, text in everywhere for fault in faults(text, exposed)]
    assert wrong == []


def test_a_name_that_is_wrong_is_found(exposed: Exposed) -> None:
    assert faults("sum(rate(bridge_lag[5m]))", exposed) == ["no process exports 'bridge_lag'"]
    assert faults("bridge_ready{what='b'}", exposed) == ["bridge_ready has no label what"]
    assert faults("sum by (host) (bridge_ready)", exposed) == ["nothing has the label host"]


def test_every_metric_is_on_the_dashboard_and_in_the_handbook(exposed: Exposed) -> None:
    drawn = " ".join(text for _, text in expressions())
    for name in exposed:
        if name.startswith("bridge_") and not name.endswith("_created"):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert family in drawn, f"{family} is on no panel"
            assert re.search(rf"`{family}[`{{]", OPERATIONS), f"{family} is not explained"


def test_each_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    headings = {heading.lower() for heading in re.findall(r"^### (.+)$", OPERATIONS, re.MULTILINE)}
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) > 8
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "$labels.app" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        page, _, section = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert section == rule["alert"].lower() and section in headings


def test_the_dashboard_can_be_imported() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "environment", "app", "instance"]
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            ours = ('{instance=~"$instance"}', '{app="$app", env="$environment"}')
            assert any(chosen in target["expr"] for chosen in ours)


def test_the_rules_fit_the_prometheus_operator_as_the_readme_says(tmp_path: Path) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```shell\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "deploy" / "monitoring").mkdir(parents=True)
    shutil.copy(FOLDER / "alerts.yaml", tmp_path / "deploy" / "monitoring")
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, timeout=10)
    resource = yaml.safe_load((tmp_path / "prometheus-rule.yaml").read_text(encoding="utf-8"))
    assert resource["kind"] == "PrometheusRule"
    assert [rule for group in resource["spec"]["groups"] for rule in group["rules"]] == RULES
    for block in re.findall(r"^```yaml\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        assert yaml.safe_load(block)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    for path in (
        FOLDER / "alerts.yaml",
        UNIT_TESTS,
    ):
        shutil.copy(path, tmp_path)
    for command in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_objective_has_a_budget_and_each_window_of_the_alerts() -> None:
    """And a bucket where its limit is, without which the rate would be a guess."""
    slos: dict[str, set[str]] = {name: set() for name in ("delivery", "handling", "dead_letters")}
    for rule in RULES:
        if "record" in rule:
            slos[rule["labels"]["slo"]].add(rule["record"])
    assert all(found == set(RECORDED) for found in slos.values())
    asked = {name for rule in ALERTS for name in re.findall(r"bridge:[a-z_0-9:]+", rule["expr"])}
    assert asked == set(RECORDED)
    assert 5 in DELIVERY_BUCKETS
    assert 30 in END_TO_END_BUCKETS


def test_each_alert_has_a_unit_test() -> None:
    text = (UNIT_TESTS).read_text(encoding="utf-8")
    fired = {
        check["alertname"]
        for test in yaml.safe_load(text)["tests"]
        for check in test["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in ALERTS}

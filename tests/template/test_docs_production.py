"""The numbers and names of docs/production.md are those of the code and of the measurements."""

from __future__ import annotations

import json
import re
import statistics
from typing import Any

import pytest

from app.settings import Settings
from jetstream_bridge.core import leases
from jetstream_bridge.core.limits import Timing
from jetstream_bridge.inbox import batch_sizing as pace
from jetstream_bridge.inbox import exclusive_worker as reign
from jetstream_bridge.nats import publishing as acks
from jetstream_bridge.outbox import relay, rounds
from jetstream_bridge.service import configuration_warnings, database, shutdown
from jetstream_bridge.service.bridge_config import bridge_config
from jetstream_bridge.service.settings_loading import read_settings
from tests.template.baking import ROOT

PAGE = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
FLAT = " ".join(PAGE.split())
NAMES = {name.upper() for name in Settings.model_fields}
NO_SETTINGS = {"LISTEN", "OTEL_EXPORTER_OTLP_ENDPOINT", "SIGTERM"}
ROWS = {  # of the table of measurements, and where it is in the results
    "relay": ("relay", "relay"),
    "relay, 50 resources only": ("relay", "relay, 50 hot resources"),
    "worker with inbox": ("consume", "worker"),
}
FREE_CONNECTIONS = 97  # PostgreSQL's default of 100, less three for superusers


def settings(**changes: Any) -> Settings:
    url = "postgresql+asyncpg://nobody@localhost/none"
    return read_settings(Settings, _env_file=None, database_url=url, **changes)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("APP_NAME", "orders")
    monkeypatch.setenv("DESTINATION_APP", "billing")


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", PAGE))
    assert named - NO_SETTINGS <= NAMES
    assert len(named) > 20


def test_every_value_in_parentheses_is_the_default() -> None:
    shown = re.findall(r"`([A-Z_]+)` \((\w+)\)", PAGE)
    assert len(shown) == 9
    for name, value in shown:
        field = Settings.model_fields[name.lower()]
        assert getattr(settings(), name.lower()) == getattr(
            settings(**{name.lower(): value}), name.lower()
        ), f"{name} is {field.default} by default"


def test_the_table_of_connections_is_the_pool_s() -> None:
    rows = re.findall(r"^\| (\d+)(?: \(default\))? \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.M)
    assert [int(row[0]) for row in rows] == [4, settings().worker_concurrency, 16]
    for row in rows:
        concurrency, at_rest, at_all, fitting = map(int, row)
        engine = database.open_database(settings(worker_concurrency=concurrency)).engine
        pool = engine.sync_engine.pool
        assert pool.size() == at_rest  # type: ignore[attr-defined]
        assert pool.size() + pool._max_overflow == at_all  # type: ignore[attr-defined]
        assert 2 * concurrency + 6 == at_all
        assert fitting == FREE_CONNECTIONS // at_all
    assert "5 x 22 = 110" in PAGE


def test_the_times_are_those_of_the_code() -> None:
    timeout = bridge_config(settings()).publish_timeout
    window = 2 * (rounds.PUBLISH_BUDGET + timeout)
    grace, after = settings().shutdown_grace, shutdown.AFTER_GRACE
    backoff = settings().backoff[: settings().max_deliver - 1]
    timing = Timing()
    assert timing.silent_probes == 3
    for sentence in (
        f"outlast the sending of one claim ({rounds.PUBLISH_BUDGET:g} s) and the deadline of its "
        f"last event ({timeout:g} s): at least {window:g} s",
        f"goes on with chains for a {'quarter' if rounds.TURNS_BUDGET == 0.25 else ''} of a second",
        f"take over at most {leases.LEASE_SECONDS + reign.STANDBY_SECONDS:g} s after a crash",
        f"three probes in a row, {timing.probe_interval:g} s apart",
        f"a few events, every {relay.PROBE_MAX:g} s at the latest",
        f"a thread of its own {after:g} s after the grace",
        f"grace + {after:g} s, {grace + after:g} s at the default",
        f"Up to {acks.WINDOW} messages are in flight",
        f"at the defaults {' + '.join(f'{pause:g}' for pause in backoff)} s of pauses",
        f"`ADMIN_TOKEN`: {configuration_warnings._SHORT_TOKEN} characters or more",
    ):
        assert sentence in FLAT
    assert grace + after < 30
    assert (relay.IDLE_MAX, pace.BATCH_SECONDS, acks.DEFAULT_MAX_PAYLOAD) == (1.0, 0.25, 2**20)


def test_the_measurements_are_in_the_results() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) to ([\d,]+) \| ([\d.]+) \| `(\S+)` \|$", PAGE, re.M)
    assert len(rows) == 3
    for name, least, most, ratio, path in rows:
        result = json.loads((ROOT / path).read_text())
        kind, key = ROWS[name]
        table = result[kind]["rows"]
        measured = table[key]["events_per_second"]
        bare = next(iter(table.values()))["events_per_second"]
        assert [f"{round(value):,}" for value in (min(measured), max(measured))] == [least, most]
        assert f"{statistics.median(measured) / statistics.median(bare):.2f}" == ratio

"""The dashboard is what Grafana's own schema says that a dashboard is.

`grafana-foundation-sdk` is made by Grafana from its schema. What it does not know it leaves out, so
reading the dashboard and writing it again shows a field that is misspelt or in the wrong place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.template.test_monitoring import DASHBOARD

pytestmark = pytest.mark.deployment

# What Grafana writes for a variable itself, beside the query that it is made from.
UNKNOWN = {"templating.list.definition"}


def as_grafana_reads_it(document: dict[str, Any]) -> dict[str, Any]:
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    read: dict[str, Any] = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))
    return read


def lost(ours: object, theirs: object, path: str = "") -> Iterator[str]:
    """Where `theirs` lacks something, or has something else."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            place = f"{path}.{name}".removeprefix(".")
            if not isinstance(theirs, dict) or name not in theirs:
                yield place
            else:
                yield from lost(value, theirs[name], place)
    elif isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            yield path
        else:
            for one, other in zip(ours, theirs, strict=True):
                yield from lost(one, other, path)
    elif ours != theirs:
        yield path


def test_grafana_reads_all_of_it() -> None:
    assert set(lost(DASHBOARD, as_grafana_reads_it(DASHBOARD))) == UNKNOWN


def test_what_grafana_does_not_know_is_found() -> None:
    document = json.loads(json.dumps(DASHBOARD))
    panel = next(panel for panel in document["panels"] if panel.get("targets"))
    panel["targets"][0]["expression"] = "1"
    panel["gridpos"] = panel["gridPos"]
    found = set(lost(document, as_grafana_reads_it(document)))
    assert found - UNKNOWN == {"panels.gridpos", "panels.targets.expression"}

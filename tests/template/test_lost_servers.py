"""Servers of a cluster are lost one after another: events flow on, once each and in order."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.template.cluster_runs import VERSIONS, started

LIMIT = 900.0  # seconds for both versions; a guard against what hangs; they take about 50

LOSSES = (
    "the leader, killed",
    "the leader, in lame duck mode",
    "n0, restarted",
    "n1, restarted",
    "n2, restarted",
    "a node with its store",
)


@pytest.fixture(scope="module")
def cluster_runs(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Both versions side by side: they spend their time waiting."""
    with started(tmp_path_factory.mktemp("clusters")) as runs:
        yield runs


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("version", VERSIONS)
def test_events_take_effect_once_and_in_order_though_servers_are_lost(
    version: str, cluster_runs: dict[str, subprocess.Popen[str]]
) -> None:
    said, _ = cluster_runs[version].communicate(timeout=LIMIT)
    assert cluster_runs[version].returncode == 0, said
    for loss in LOSSES:
        assert f"{loss}: events flowed again" in said
        assert f"{loss}: whole again" in said

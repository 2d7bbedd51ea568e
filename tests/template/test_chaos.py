"""Everything goes wrong at random, and everything is counted: nothing lost, nothing doubled."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from chaos.injecting import Window
from chaos.plan import DATABASE, NATS, Fault, Kind, make_plan
from chaos.probes import NOTICED, RECOVERED, SILENCE_NOTICED, Sample, untruths
from tests.template.baking import ROOT, clean_environment

SEED = 1155  # its short plan has every kind of fault
MINUTES = 0.7
LIMIT = 900.0  # seconds; a guard against what hangs; it takes about 65

PROCESSES = [
    f"{app}-{kind}-{number}"
    for app in ("orders", "billing")
    for kind in ("api", "worker")
    for number in (1, 2)
]


@pytest.mark.timeout(LIMIT + 60)
def test_nothing_is_lost_or_doubled_when_everything_goes_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--seed", str(SEED), "--minutes", str(MINUTES)],
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plan_of_that_seed_has_every_kind_of_fault() -> None:
    plan = make_plan(SEED, MINUTES * 60, PROCESSES)
    assert {fault.kind for fault in plan} == set(Kind)


def test_a_seed_gives_the_same_plan_and_another_one_another() -> None:
    plan = make_plan(1, 60, PROCESSES)
    assert plan == make_plan(1, 60, PROCESSES)
    assert plan != make_plan(2, 60, PROCESSES)


@pytest.mark.parametrize("seed", range(20))
def test_no_target_has_two_faults_at_a_time(seed: int) -> None:
    plan = make_plan(seed, 300, PROCESSES)
    assert plan
    assert max(fault.end for fault in plan) < 300
    for one, other in combinations(plan, 2):
        apart = one.end < other.at or other.end < one.at
        assert one.target != other.target or apart
    assert Counter(fault.target for fault in plan).keys() == {*PROCESSES, NATS, DATABASE}


def _sample(probe: str, status: int, *, at: float = 50.0, nats: bool = True) -> Sample:
    body = {"checks": {"nats": {"ok": nats}}}
    return Sample(at, at + 0.1, "orders-worker-1", probe, status, body)


def _window(kind: Kind, begin: float, end: float) -> Window:
    target = kind.target or "orders-worker-1"
    return Window(Fault(begin, kind, target, end - begin), begin, end, end)


@pytest.mark.parametrize(
    ("sample", "window"),
    [
        (_sample("healthz", 503), _window(Kind.DATABASE_STOPPED, 40, 60)),
        (_sample("readyz", 200), _window(Kind.READ_ONLY, 50 - NOTICED, 60)),
        (_sample("readyz", 200), _window(Kind.HOLD_DATABASE, 50 - NOTICED, 60)),
        (_sample("readyz", 200, nats=False), _window(Kind.NATS_KILLED, 50 - NOTICED, 60)),
        (_sample("readyz", 503, nats=True), _window(Kind.NATS_KILLED, 50 - NOTICED, 60)),
        (_sample("readyz", 200), _window(Kind.HOLD_NATS, 50 - SILENCE_NOTICED, 60)),
        (_sample("readyz", 503), _window(Kind.KILL, 0, 49 - RECOVERED)),
    ],
)
def test_an_answer_that_is_not_true_is_found(sample: Sample, window: Window) -> None:
    assert len(list(untruths([sample], [window]))) == 1


@pytest.mark.parametrize(
    ("sample", "window"),
    [
        (_sample("healthz", 200), _window(Kind.DATABASE_STOPPED, 40, 60)),
        (_sample("healthz", 0), _window(Kind.FREEZE, 40, 60)),
        (_sample("readyz", 503), _window(Kind.READ_ONLY, 40, 60)),
        (_sample("readyz", 200), _window(Kind.READ_ONLY, 49.5, 60)),
        (_sample("readyz", 503, nats=False), _window(Kind.NATS_KILLED, 40, 60)),
        (_sample("readyz", 200), _window(Kind.HOLD_NATS, 40, 60)),
        (_sample("readyz", 503), _window(Kind.KILL, 0, 30)),
        (_sample("readyz", 200), _window(Kind.KILL, 0, 10)),
    ],
)
def test_an_answer_that_is_true_or_could_not_be_better_is_left_alone(
    sample: Sample, window: Window
) -> None:
    assert list(untruths([sample], [window])) == []

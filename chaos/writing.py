"""Clients that never stop changing things, and remember what was acknowledged to them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from random import Random

import httpx

from chaos.counting import Change
from chaos.town import PEERS, Town

_EVERY = 0.1  # seconds between two changes of one service
_TIMEOUT = 5.0  # seconds; the client then knows nothing of the change
_RESOURCES = 15
_POISON = 0.01  # of the changes
_FLAKY = 0.03
# How long handlers take: mostly next to nothing, seldom longer than a grace or ACK_WAIT.
_SECONDS = ((0.80, 0.0), (0.15, 0.05), (0.04, 1.0), (0.01, 10.0))


class Writers:
    """One client for each service, each in a thread of its own."""

    def __init__(self, town: Town, seed: int) -> None:
        self._town = town
        self._stopping = threading.Event()
        self.acknowledged: dict[str, set[Change]] = defaultdict(set)
        self.refused = 0  # answers that were no, and answers that did not come
        self._threads = [
            threading.Thread(target=self._write, args=(app, Random(f"{seed} {app}")), name=app)
            for app in PEERS
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_TIMEOUT + 1.0)

    def _write(self, app: str, random: Random) -> None:
        apis = self._town.of(app, "api")
        with httpx.Client(timeout=_TIMEOUT) as client:
            while not self._stopping.wait(_EVERY):
                change = _draw(random)
                try:
                    answer = client.post(f"{random.choice(apis).url}/changes", json=change)
                except httpx.TransportError:
                    self.refused += 1
                    continue
                if answer.status_code == 201:
                    version = int(answer.json()["version"])
                    self.acknowledged[app].add((str(change["resource"]), version))
                else:
                    self.refused += 1


def _draw(random: Random) -> dict[str, object]:
    [seconds] = random.choices([s for _, s in _SECONDS], [share for share, _ in _SECONDS])
    poison = random.random() < _POISON
    number = random.randrange(_RESOURCES)
    return {
        # Each in a resource of its own: what no handler takes is no gap in another's versions.
        "resource": f"poison-{time.monotonic_ns() % 10**9}" if poison else f"thing-{number}",
        "seconds": seconds * random.random(),
        "poison": poison,
        "flaky": random.random() < _FLAKY,
    }

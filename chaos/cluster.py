"""`python -m chaos.cluster`: three nats-servers with three replicas lose one after another.

Two services exchange events all the while. Their bridges run here, in one process; only servers
die. Status 0: every change took effect once, in order, and the bridges were ready whenever the
cluster was whole.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from nats.js.api import ClusterInfo

from chaos.counting import Change, changes_of, count
from chaos.replicated import (
    NODES,
    PAUSE,
    Broken,
    Cluster,
    Services,
    comes_true,
    database_url,
    make_tables,
    until,
)

_CATCHES_UP = 30.0  # seconds for a replica; then it is helped, so many times
_HELPED = 3
_WATCHED = 1.0  # seconds after each step in which all must be well without a break
_TERMINATED = 143
_AGAIN = 20  # effects after which events flow again


class Trial:
    """One loss after another; after each of them events flow again and all are ready."""

    def __init__(self, cluster: Cluster, services: Services) -> None:
        self._cluster = cluster
        self._services = services
        self.gaps: dict[str, float] = {}  # seconds until events flowed again, by what was lost
        self._seen: ClusterInfo | None = None  # what the stream's leader told last of its replicas

    async def run(self) -> None:
        await self._whole("start")
        await self._loses("the leader, killed", self._kill_the_leader)
        await self._loses("the leader, in lame duck mode", self._lame_duck)
        for name in self._cluster.nodes:
            await self._loses(f"{name}, restarted", partial(self._restart, name))
        await self._loses("a node with its store", self._lose_a_node)

    async def _loses(self, what: str, lose: Callable[[], Awaitable[None]]) -> None:
        begun = time.monotonic()
        await lose()
        print(f"{what}: events flowed again after {self.gaps.pop('flow'):.1f} s", flush=True)
        await self._whole(what)
        print(f"{what}: whole again after {time.monotonic() - begun:.1f} s", flush=True)

    async def _kill_the_leader(self) -> None:
        node = self._cluster.nodes[await self._leader()]
        node.kill()
        await self._flows()
        await asyncio.to_thread(node.start)

    async def _lame_duck(self) -> None:
        node = self._cluster.nodes[await self._leader()]
        os.kill(node.pid, signal.SIGUSR2)
        await self._flows()
        await until(_answers(lambda: not node.is_running), "the end of the lame duck")
        await asyncio.to_thread(node.start)

    async def _restart(self, name: str) -> None:
        node = self._cluster.nodes[name]
        await asyncio.to_thread(node.terminate)
        await self._flows()
        await asyncio.to_thread(node.start)

    async def _lose_a_node(self) -> None:
        leader = await self._leader()
        node = next(node for name, node in self._cluster.nodes.items() if name != leader)
        node.kill()
        shutil.rmtree(node.store)
        await self._flows()
        await asyncio.to_thread(node.start)

    async def _flows(self) -> None:
        """Return when events flow, though not all servers are there."""
        begun = time.monotonic()
        enough = self._services.effects + _AGAIN
        await until(_answers(lambda: self._services.effects >= enough), "events that flow again")
        self.gaps["flow"] = time.monotonic() - begun

    async def _whole(self, what: str) -> None:
        """Return when every server has everything; then nobody may complain for a while."""
        for _ in range(_HELPED):
            if await comes_true(self._is_whole, _CATCHES_UP):
                break
            await self._help(what)
        await until(self._is_whole, lambda: f"a whole cluster after {what}: {self._seen}")
        await self._flows()
        await until(
            _answers(lambda: not self._services.problems),
            lambda: f"readiness after {what}: {self._services.problems}",
        )
        watched = time.monotonic() + _WATCHED
        while time.monotonic() < watched:
            if self._services.problems:
                raise Broken(
                    f"not ready in a whole cluster, after {what}: {self._services.problems}"
                )
            await asyncio.sleep(PAUSE)

    async def _help(self, what: str) -> None:
        """Restart the replicas that the leader has not heard of, as an operator would: a server
        of 2.10 that comes back leaves the stream's group alone at times, and for good."""
        replicas = (self._seen.replicas if self._seen is not None else None) or ()
        for name in [peer.name for peer in replicas if peer.name and not peer.current]:
            print(f"{what}: {name} does not catch up, and is restarted", flush=True)
            await asyncio.to_thread(self._cluster.nodes[name].terminate)
            await asyncio.to_thread(self._cluster.nodes[name].start)

    async def _is_whole(self) -> bool:
        self._seen = cluster = (await self._services.stream()).cluster
        return (
            cluster is not None
            and cluster.leader is not None
            and len(cluster.replicas or ()) == NODES - 1
            and all(peer.current and not peer.offline for peer in cluster.replicas or ())
        )

    async def _leader(self) -> str:
        cluster = (await self._services.stream()).cluster
        if cluster is None or cluster.leader is None:
            raise Broken("a whole cluster without a leader")
        return cluster.leader


def _answers(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return condition()

    return answer


async def run(binary: Path | None, folder: Path) -> list[Change]:
    """Go through all losses; return the changes that the stream tells of in the end."""
    cluster = Cluster(binary)
    with cluster.running():
        services = Services(cluster, folder)
        async with services.running():
            await Trial(cluster, services).run()
        return await services.history()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m chaos.cluster", description=__doc__)
    parser.add_argument("--server", type=Path, help="the nats-server to take; else the newest")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # the servers end then too
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        make_tables(folder)
        try:
            stored = asyncio.run(run(arguments.server, folder))
        except Broken as broken:
            raise SystemExit(f"broken: {broken}") from None
        found = _judge(folder, stored)
    raise SystemExit(f"broken: {found}" if found else 0)


def _judge(folder: Path, stored: list[Change]) -> str | None:
    """What did not hold: each change has one message and one effect, both in order."""
    changes = changes_of(database_url("orders", folder), "things")
    effects = changes_of(database_url("billing", folder), "effects", order="id")
    print(f"{len(changes)} changes, {len(stored)} messages stored, {len(effects)} effects")
    found = {"the stream": count(changes, stored), "the effects": count(changes, effects)}
    return "; ".join(f"{place}: {wrong}" for place, wrong in found.items() if wrong) or None


if __name__ == "__main__":
    main()

"""What a result was measured on. Neither a host's name nor a path is in it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.stage import ROOT
from jetstream_bridge.testing.postgres import PostgresServer
from jetstream_bridge.testing.servers import find_nats_server

OURS = ("nats-py", "asyncpg", "sqlalchemy", "sqlmodel", "pydantic", "fastapi", "uvicorn", "uvloop")
PEERS = ("txoutbox", "faststream-outbox", "faststream")
_ASK = "import json, sys; from importlib.metadata import version as v; "


def machine() -> dict[str, object]:
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()}


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def versions(postgres: PostgresServer, peers: Path | None) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "nats-server": _nats_server(),
        "postgresql": postgres.run("SHOW server_version"),
        **{name: version(name) for name in OURS},
        **(_peers(peers) if peers else {}),
    }


def _nats_server() -> str:
    told = _output(str(find_nats_server()), "--version")
    return told.rpartition(" ")[2].removeprefix("v")


def _peers(python: Path) -> dict[str, str]:
    script = _ASK + f"print(json.dumps({{n: v(n) for n in {PEERS!r}}}))"
    found: dict[str, str] = json.loads(_output(str(python), "-c", script))
    return found


# What a run before this one has written.
_RESULTS = (":!benchmarks/results", ":!docs/performance.md", ":!docs/images")


def commit() -> str:
    """Return the commit that is measured; `-dirty` behind it when files differ from it.

    Results of another run do not count. `unknown` where the template is no checkout of git.
    """
    try:
        head = _output("git", "rev-parse", "HEAD")
        changed = _output("git", "status", "--porcelain", "--untracked-files=no", "--", *_RESULTS)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()

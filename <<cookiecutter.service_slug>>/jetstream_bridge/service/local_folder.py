"""Where this machine's local servers keep their data, and where their nats-server is found.

`make run` starts them; API, worker and commands of every service look here for the address.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NATS_PORT = 4222
_OF_ROOT = Path("/var/lib/jetstream-bridge")  # where PostgreSQL's account, not root, may go too


def default_folder() -> Path:
    """Return the folder of this user's local servers, when LOCAL_SERVERS_FOLDER names none.

    For a user without a home, as in a container, it is a place where nothing can be.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return _OF_ROOT
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return Path(state).expanduser() / "jetstream-bridge"
    except RuntimeError:
        return Path(os.devnull) / "jetstream-bridge"


def nats_port_file(folder: Path) -> Path:
    return folder / "nats" / "port"


def recorded_nats_port(folder: Path) -> int | None:
    """The port of the local nats-server, from its start until it is stopped; else None."""
    with suppress(OSError, ValueError):
        return int(nats_port_file(folder).read_text(encoding="ascii"))
    return None


def local_nats_url(folder: Path) -> str:
    """Where NATS is for a service that names none: the local server, or the usual port."""
    return f"nats://localhost:{recorded_nats_port(folder) or NATS_PORT}"

"""Ports that a process takes for another one: bound once, handed over, and never free between."""

from __future__ import annotations

import socket
from contextlib import closing

_NEXT = 100  # ports that are tried after the wanted one


class PortTakenError(Exception):
    """Nothing can listen there; the message names the port and the remedy."""


def port_is_free(port: int) -> bool:
    """Whether nobody listens on `port`, on any address of this machine."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def take_port(name: str, given: int | None, *, default: int) -> socket.socket:
    """Listen on `given`, or else on `default` or the next port that is free, of 127.0.0.1.

    Raises `PortTakenError` where that is not possible; `name` is the setting it speaks of.
    """
    wanted = range(default, min(default + _NEXT, 65536)) if given is None else (given,)
    for port in wanted:
        if (listener := _listen(port)) is not None:
            return listener
    if given is None:
        raise PortTakenError(
            f"{name}: every port from {default} to {wanted[-1]} is in use; "
            f"stop what listens there, or choose another port"
        )
    raise PortTakenError(
        f"{name}: {given} is in use; stop the other process, or choose another port"
    )


def _listen(port: int) -> socket.socket | None:
    # Some systems let a socket of one address in beside one of all addresses, so both are asked.
    if not port_is_free(port):
        return None
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None

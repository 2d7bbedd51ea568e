"""Processes that share one terminal: their lines are told apart, and they end together.

Each child has a process group of its own, so Ctrl-C reaches the parent alone, which then stops
the children in the reverse order of their start. When one ends by itself, all end.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

_COLOURS = itertools.cycle((36, 33, 35, 32, 34))  # cyan, yellow, magenta, green, blue
_WIDTH = 8  # characters of a name
_LONGEST_LINE = 1024 * 1024  # bytes
_LAST_OUTPUT = 2.0  # seconds for what an ended child, or a child of it, still says


class Terminal:
    """Prints lines with the name of who said them, in colour where somebody can see it."""

    def __init__(self) -> None:
        self._colourful = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._colours: dict[str, int] = {}

    def say(self, name: str, line: str) -> None:
        prefix = f"{name:<{_WIDTH}} | "
        if self._colourful:
            colour = self._colours.setdefault(name, next(_COLOURS))
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        with suppress(OSError):  # the terminal was closed
            print(f"{prefix}{line}", flush=True)


@dataclass
class Child:
    """One running process."""

    name: str
    process: asyncio.subprocess.Process
    output: asyncio.Task[None]
    grace: float

    async def stop(self) -> None:
        if self.process.returncode is None:
            # asyncio's own way to send a signal may take the exit status from who waits for it.
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(self.grace):
                    await self.process.wait()
            except TimeoutError:
                self.kill()
                await self.process.wait()
        await asyncio.wait([self.output], timeout=_LAST_OUTPUT)

    def kill(self) -> None:
        """End the child and all of its own children at once."""
        # Of an ended child the number may be somebody else's by now.
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # it is ending just now
                os.killpg(self.process.pid, signal.SIGKILL)


class Children:
    """The processes of one terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._children: list[Child] = []

    async def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        grace: float = 10.0,
        sockets: Sequence[socket.socket] = (),
    ) -> Child:
        """Start `command`; its output appears under `name`, and it inherits `sockets`.

        SIGTERM makes it end in order, within `grace` seconds.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            limit=_LONGEST_LINE,
            pass_fds=[one.fileno() for one in sockets],
        )
        self._terminal.say(name, f"started as process {process.pid}")
        output = asyncio.create_task(self._print(name, process))
        child = Child(name, process, output, grace)
        self._children.append(child)
        return child

    async def first_to_end(self) -> Child:
        """Wait until one of the children ends by itself, and return it."""
        waiting = {asyncio.create_task(child.process.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return waiting[done.pop()]

    async def stop(self) -> None:
        """Stop all children, the last one first."""
        while self._children:
            await self._children[-1].stop()
            self._children.pop()

    def kill(self) -> None:
        """End all children at once; `stop` then has nothing to wait for."""
        for child in self._children:
            child.kill()

    async def _print(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line beyond the limit; the reader has dropped it
                continue
            if not line:
                return
            self._terminal.say(name, line.decode(errors="replace").rstrip())

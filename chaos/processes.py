"""Processes of a service that start at once: each is a fork of one that has done the imports.

A process of the service spends its first seconds importing, and a run of chaos starts dozens of
them on few cores. What runs is `python -m` with the same arguments.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from demo.processes import WARM_START

_LIMIT = 60.0  # seconds


class Warm:
    """A process that has done the service's imports, and makes copies of itself."""

    def __init__(self, service: Path, environment: Mapping[str, str], log_file: Path) -> None:
        self._log_file = log_file
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(WARM_START)],
                cwd=service,
                env={**environment, "PYTHONPATH": str(service)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return when the imports are done."""
        said = self._answer()
        if said != "warm":
            raise RuntimeError(f"the imports said {said!r}; their log is {self._log_file}")

    def copy(self, environment: Mapping[str, str], pipes: Sequence[Path]) -> int:
        """Make a copy that listens on the first of `pipes`; return its process' number."""
        order = {"environment": dict(environment), "pipes": [str(pipe) for pipe in pipes]}
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        return int(self._answer())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Forked:
    """One process that can be started and ended again and again."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        warm: Warm,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """Its log and its pipes are files in `folder`."""
        self.name = name
        self.log_file = folder / f"{name}.log"
        self._order = json.dumps({"arguments": list(arguments), "environment": {}}) + "\n"
        self._said: queue.Queue[str] = queue.Queue()
        self._pid: int | None = None
        self._status: int | None = None
        pipes = [folder / f"{name}.{way}" for way in ("orders", "answers")]
        for pipe in pipes:
            os.mkfifo(pipe)
        warm.copy(environment, [*pipes, self.log_file])
        self._orders = pipes[0].open("w", encoding="utf-8")
        self._answers = pipes[1].open(encoding="utf-8")
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    @property
    def pid(self) -> int:
        if self._pid is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._pid

    @property
    def is_running(self) -> bool:
        """Whether it was started, and has not ended, be it by itself or because it was told to."""
        if self._pid is not None and self._status is None:
            with suppress(queue.Empty):
                self._status = int(self._said.get_nowait())
        return self._pid is not None and self._status is None

    @property
    def status(self) -> int | None:
        """The exit status of one that ended by itself."""
        return None if self.is_running else self._status

    def start(self) -> None:
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already, as process {self.pid}")
        self._orders.write(self._order)
        self._orders.flush()
        self._status = None
        self._pid = int(self._next())

    def send(self, number: signal.Signals) -> None:
        if self.is_running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> int | None:
        """End the process as `kill -9` does; return its status."""
        self.send(signal.SIGKILL)
        return self._ended(_LIMIT)

    def stop(self, *, grace: float) -> int | None:
        """Ask the process to end; return its status. None: it did not end in time."""
        self.send(signal.SIGTERM)
        return self._ended(grace)

    def close(self) -> None:
        """End the process and what it is a fork of."""
        self.send(signal.SIGCONT)
        self.kill()
        self._orders.close()  # which ends the copy too

    def _ended(self, limit: float) -> int | None:
        if self._pid is None:
            return None
        if self._status is None:
            try:
                self._status = int(self._said.get(timeout=limit))
            except queue.Empty:
                return None
        status, self._pid, self._status = self._status, None, None
        return status

    def _next(self) -> str:
        return self._said.get(timeout=_LIMIT)

    def _listen(self) -> None:
        with self._answers:
            for line in self._answers:
                self._said.put(line.strip())

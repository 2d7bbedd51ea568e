"""Runs a module of the service for each line of its input, without the second that imports take.

A line holds the arguments and the environment, as JSON. Each run is a process of its own; its
number and then its exit status are written as lines. So several of these start their modules at
the same instant: when their lines are written.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys

from app.consumers import load_consumers

IMPORTED = ("uvicorn", "app.main", "app.worker")


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    load_consumers()
    print("warm", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(order["arguments"], order["environment"])
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    os.dup2(2, 1)  # the pipe is the parent's
    os.environ.update(environment)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()

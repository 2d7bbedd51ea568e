"""Runs a module of the service for each line of its input, without the second that imports take.

A line holds the arguments and the environment, as JSON. Each run is a process of its own; its
number and then its exit status are written as lines. So several of these start their modules at
the same instant: when their lines are written.

A line with `pipes` makes a copy of this process, which takes its lines from the first of these
three files and writes to the others; only the copy's number is written.
"""

from __future__ import annotations

import gc
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
    gc.freeze()  # else each copy would copy all of it when it looks for garbage, at its end too
    print("warm", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ.update(order["environment"])
            if "pipes" not in order:
                _run(order["arguments"])
            _take_over(*order["pipes"])
            continue
        print(child, flush=True)
        if "pipes" not in order:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str]) -> None:
    os.dup2(2, 1)  # the pipe is the parent's
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    sys.exit()


def _take_over(lines: str, answers: str, log: str) -> None:
    """Be the copy: from now on, what comes and goes is its own."""
    flags = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, (path, how) in enumerate(zip((lines, answers, log), flags, strict=True)):
        os.dup2(os.open(path, how), number)


if __name__ == "__main__":
    main()

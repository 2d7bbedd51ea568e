"""What importing an application costs: the CPU of the whole process, and the memory it has then.

Both have compiled bytecode, and take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from pathlib import Path

from benchmarks.measurements import Sizes, Values
from benchmarks.stage import ROOT, TEMPLATE, Stage

_TIMES = 7
_LIMIT = 60.0  # seconds for one import
# The peak that the system keeps of a process may be the one of its parent, so it is not asked for.
_PROBE = (
    "import importlib, sys, time; importlib.import_module(sys.argv[1]); cpu = time.process_time(); "
    "import psutil; print(cpu * 1e3, psutil.Process().memory_info().rss / 1e6)"
)


async def start(stage: Stage, sizes: Sizes) -> Values:
    """The service's API beside a bare one; `stage` and `sizes` are not needed for it."""
    found: dict[str, list[tuple[float, float]]] = {"app.main": [], "benchmarks.bare_api": []}
    for number in range(_TIMES + 1):
        for module, costs in found.items():
            cost = await _cost(module)
            if number:  # the first import compiled what it read
                costs.append(cost)
    (cpu, memory), (bare_cpu, bare_memory) = (
        [statistics.median(values) for values in zip(*costs, strict=True)]
        for costs in found.values()
    )
    return {
        "start_cpu": cpu,
        "start_cpu_bare": bare_cpu,
        "start_memory": memory,
        "start_memory_bare": bare_memory,
    }


async def _cost(module: str) -> tuple[float, float]:
    """Import it in a process of its own; return milliseconds of CPU and megabytes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROBE, module),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": _path(ROOT, TEMPLATE)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(_LIMIT):
        output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"importing {module} ended with status {process.returncode}")
    cpu, memory = map(float, output.split())
    return cpu, memory


def _path(*folders: Path) -> str:
    return os.pathsep.join(map(str, folders))

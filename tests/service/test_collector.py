"""A process that serves for long spares the garbage collector what stays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

from tests.processes import import_path

_PROGRAM = """
import gc, sys
from jetstream_bridge.service.collector import spare_collector

class Node:
    pass

spare_collector()
assert gc.get_freeze_count() > 1000, gc.get_freeze_count()
before = sum(isinstance(found, Node) for found in gc.get_objects())
for _ in range(300_000):
    node = Node()
    node.itself = node
left = sum(isinstance(found, Node) for found in gc.get_objects())
assert before == 0 and left < 100_000, left
print(gc.get_threshold()[0])
"""


def test_garbage_is_collected_and_what_is_loaded_is_left_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONPATH": import_path()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > gc.get_threshold()[0]

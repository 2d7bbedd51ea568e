"""What the garbage collector need not look at in a process that serves for long.

Handling an event makes a few hundred objects, so that a full collection, which walks over every
module and class that is loaded, comes many times a second. What is loaded at the start stays until
the process ends: it is taken out, and young objects are looked at less often. Reference counting
frees what it always frees; memory grows by at most the objects of one threshold.
"""

from __future__ import annotations

import gc

_THRESHOLDS = 50_000, 20, 20  # objects; collections of the young; of the middle-aged


def spare_collector() -> None:
    """Take what is loaded now out of the collector's sight. To be called once, before serving."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)

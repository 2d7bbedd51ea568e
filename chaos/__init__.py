"""Tools that look for what the guarantees leave open, on real servers and with real deaths.

`chaos.matrix` kills a process at every named point, `chaos.cluster` takes servers of a cluster
away, `python -m chaos` does everything at random. Each of them counts what came of it: lost,
doubled, out of order. The service's own code knows nothing of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "<<cookiecutter.service_slug>>"

# Behind everything else: the template's own modules, where they stand.
sys.path.append(str(TEMPLATE))

"""Two generated services on real servers: to be watched with `make demo`, and to be tested.

Nothing here belongs to a service. The servers are the template's own (`tests.servers` there), so
its folder is made importable, behind everything else.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "<<cookiecutter.service_slug>>"

sys.path.append(str(TEMPLATE))

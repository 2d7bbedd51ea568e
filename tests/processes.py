"""What a process that a test starts needs to import the tests, the service and its package."""

from __future__ import annotations

import os
from pathlib import Path

from app.settings import ROOT as SERVICE

_REPOSITORY = Path(__file__).resolve().parent.parent


def import_path() -> str:
    """Return the PYTHONPATH of this repository and of the template's service."""
    return os.pathsep.join([str(_REPOSITORY), str(SERVICE)])

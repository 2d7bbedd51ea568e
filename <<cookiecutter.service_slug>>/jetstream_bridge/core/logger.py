"""structlog, without what it loads for tracebacks in colour.

Where rich is installed, as typer brings it, structlog imports it: 94 modules and 8 MB in every
process, for a formatter that is not used here. Whoever imports rich has it nevertheless.
"""

from __future__ import annotations

import sys

_RICH = "rich"
_hidden = _RICH not in sys.modules
if _hidden:
    sys.modules[_RICH] = None  # type: ignore[assignment] # an import of it fails, as if not there
try:
    import structlog
finally:
    if _hidden:
        del sys.modules[_RICH]

__all__ = ["get_logger", "structlog"]

get_logger = structlog.get_logger

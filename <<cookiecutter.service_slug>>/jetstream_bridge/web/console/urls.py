"""Where the console's pages are. The gate needs to know it before there is a route."""

from __future__ import annotations

from starlette.types import Scope

HOME = "/admin"
UNDER = "/admin/console"
LOGIN = f"{UNDER}/login"
KNOWN = f"{LOGIN}/known"
STATIC = f"{UNDER}/static"


def path_of(scope: Scope) -> str:
    """Return the path as the router sees it, without what a proxy puts before it."""
    path: str = scope["path"]
    root = root_of(scope)
    return path[len(root) :] if root and path.startswith(root) else path


def root_of(scope: Scope) -> str:
    """Return what a proxy puts before every path, and so each link here too."""
    root: str = scope.get("root_path", "")
    return root


def is_of_the_console(path: str) -> bool:
    return path in (HOME, f"{HOME}/", UNDER) or path.startswith(f"{UNDER}/")


def needs_no_session(path: str) -> bool:
    """Say what has to be reached before one is logged in: the login, and how it looks."""
    folder, _, name = path.rpartition("/")
    return path in (LOGIN, KNOWN) or (folder == STATIC and name != "")


def own_page(target: str | None) -> str:
    """Return `target` if it is a page of the console, else the first page: no way out of here."""
    path = (target or "").partition("?")[0]
    if target is None or not is_of_the_console(path) or needs_no_session(path):
        return HOME
    # A browser reads a backslash as a slash, and drops control characters.
    plain = target.isascii() and target.isprintable() and not {"\\", " "} & {*target}
    return target if plain and "//" not in path and ".." not in path else HOME

"""One tree of errors: every leaf is raised by the bridge, and every class is held by a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jetstream_bridge
from jetstream_bridge.core import errors
from jetstream_bridge.core.errors import BridgeError

BRIDGE = Path(jetstream_bridge.__file__).parent
TESTS = Path(__file__).parent.parent

# A handler of the service's raises these; the bridge only catches them.
RAISED_BY_HANDLERS = {"Unrecoverable", "Retry"}


def tree(root: type[BridgeError] = BridgeError) -> Iterator[type[BridgeError]]:
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


def words(path: Path) -> set[str]:
    return set(re.findall(r"\w+", path.read_text()))


def constructed(path: Path) -> set[str]:
    """Every name that a file calls: an error is made where it is raised, or soon after."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


CLASSES = {error.__name__: error for error in tree()}
LEAVES = {name for name, error in CLASSES.items() if not error.__subclasses__()}


def test_every_leaf_is_raised_by_the_bridge() -> None:
    modules = [path for path in BRIDGE.rglob("*.py") if path.name != "errors.py"]
    assert set().union(*map(constructed, modules)) >= LEAVES - RAISED_BY_HANDLERS


def test_every_leaf_is_held_by_a_test() -> None:
    files = [path for path in TESTS.rglob("test_*.py") if path.name != "test_errors.py"]
    assert set().union(*map(words, files)) >= LEAVES


def test_every_class_that_the_module_has_is_in_the_tree_and_in_its_picture() -> None:
    defined = {
        node.name
        for node in ast.walk(ast.parse(Path(errors.__file__).read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert defined == {*CLASSES, "BridgeError"}
    drawn = (errors.__doc__ or "").split()
    assert all(name in drawn for name in defined)


def test_no_error_of_the_bridge_is_outside_the_tree() -> None:
    """Whoever catches BridgeError catches what the bridge raises on purpose to its users."""
    public = {getattr(jetstream_bridge, name) for name in jetstream_bridge.__all__}
    exceptions = {c for c in public if isinstance(c, type) and issubclass(c, BaseException)}
    assert all(issubclass(error, BridgeError) for error in exceptions)
    assert exceptions


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_says_what_it_stands_for(name: str) -> None:
    assert (CLASSES[name].__doc__ or "").strip()


def test_an_error_about_an_event_names_it() -> None:
    error = errors.PublishUnavailableError("away", event_id="e1", subject="s", tries=3)
    assert (str(error), error.event_id, error.subject, error.tries) == ("away", "e1", "s", 3)


def test_an_answer_of_jetstream_keeps_its_codes() -> None:
    error = errors.ApiError("$JS.API.X", {"code": 400, "err_code": 10052, "description": "no"})
    assert (error.code, error.err_code, error.description) == (400, 10052, "no")
    assert str(error) == "$JS.API.X: no (10052)"
    assert errors.ApiError("x", {}).code == 0

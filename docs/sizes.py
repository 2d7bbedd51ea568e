"""Say how large a service and the package are, and fail where one of the limits is passed.

`make sizes`. A service is what its team owns: Python under `app/`, `migrations/` and `tests/`, with
the customers example and without it. Lines are those of the files; a function's are its statements
from the first after the docstring to the last.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "<<cookiecutter.service_slug>>"
sys.path.insert(0, str(TEMPLATE))

from jetstream_bridge.cli import example_files  # noqa: E402 - found beside this folder

FILES, WITH_EXAMPLE, WITHOUT = 30, 1600, 900
LONGEST_FILE = 350  # lines
MEDIAN, NINE_IN_TEN = 8, 24  # lines of a function


@dataclass(frozen=True, slots=True)
class Limit:
    """What was counted, and how much of it there may be."""

    what: str
    counted: float
    limit: float

    def __str__(self) -> str:
        verdict = "" if self.counted <= self.limit else "  TOO MUCH"
        return f"{self.what:<52} {self.counted:>7g} of {self.limit:g}{verdict}"


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def service_files() -> dict[str, int]:
    """The Python files that a team gets, and their lines."""
    return {
        path.relative_to(TEMPLATE).as_posix(): lines(path)
        for folder in ("app", "migrations", "tests")
        for path in (TEMPLATE / folder).rglob("*.py")
    }


def without_example() -> dict[str, int]:
    removal = example_files.plan(TEMPLATE)
    changed = {
        name: len(text.splitlines())
        for name, text in removal.written.items()
        if name.endswith(".py")
    }
    kept = {name: count for name, count in service_files().items() if name not in removal.deleted}
    return kept | changed


def package_files() -> list[Path]:
    return sorted((TEMPLATE / "jetstream_bridge").rglob("*.py"))


def functions(paths: Iterable[Path]) -> Iterator[int]:
    """The length of each function, in lines."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
                yield (body[-1].end_lineno or 0) - body[0].lineno + 1


def measured() -> list[Limit]:
    """Everything that has a limit."""
    with_example, without = service_files(), without_example()
    lengths = sorted(functions(package_files()))
    package = TEMPLATE / "jetstream_bridge"
    long = {str(p.relative_to(package)) for p in package_files() if lines(p) > LONGEST_FILE}
    return [
        Limit("Python files of a service with the example", len(with_example), FILES),
        Limit("lines of them", sum(with_example.values()), WITH_EXAMPLE),
        Limit("lines of a service without the example", sum(without.values()), WITHOUT),
        Limit("median function of the package, in lines", statistics.median(lengths), MEDIAN),
        Limit("nine in ten have at most", lengths[len(lengths) * 9 // 10], NINE_IN_TEN),
        Limit(f"files of over {LONGEST_FILE} lines", len(long), 0),
    ]


def main() -> int:
    found = measured()
    print("\n".join(map(str, found)))
    package = TEMPLATE / "jetstream_bridge"
    for path in package_files():
        if lines(path) > LONGEST_FILE:
            print(f"  {lines(path)} {path.relative_to(package)}")
    return any(limit.counted > limit.limit for limit in found)


if __name__ == "__main__":
    sys.exit(main())

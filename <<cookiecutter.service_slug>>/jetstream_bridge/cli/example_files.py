"""The customers example in a service's files, and the service without it.

A bake without the example does the same as `example remove`, where no package is installed yet: so
only the standard library is imported here. Everything is decided before the first byte is written.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = (
    "app/consumers/customers.py",
    "app/events/customers.py",
    "app/routers/customers.py",
    "tests/test_customers.py",
)
MIGRATION = "migrations/versions/0002_customers.py"
MODELS = "app/models.py"
MODEL = "Customer"
TABLE = "customers"
_HELPERS = frozenset({"new_id", "now"})  # of the model's module; a team's models may use them
_MODULES = frozenset({"app.consumers.customers", "app.events.customers", "app.routers.customers"})
_MARKED = re.compile(r"<!-- the example -->\n.*?<!-- /the example -->\n\n?", re.DOTALL)
_ANSWER = re.compile(r"""(["']?include_example["']?\s*:\s*)["']?true["']?""", re.IGNORECASE)
_ANSWERS = (".cookiecutter.yaml", ".cruft.json")

NO_MODELS = '''\
"""The service's own tables.

Define them here as `class Order(SQLModel, table=True)`, with the `SQLModel` of
`jetstream_bridge.core.naming`, then write their migration with
`alembic revision --autogenerate -m "orders"`.
"""
'''
OWN_MODELS = '"""The service\'s own tables."""'

DROP = '''\
"""The example's table goes, and the customers in it

Revision: {revision}
Builds on: {below}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{below}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("customers")


def downgrade() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
    )
'''


@dataclass(frozen=True, slots=True)
class Removal:
    """The files that go, and those that are written anew, below a service's folder."""

    deleted: tuple[str, ...]
    written: dict[str, str]

    def apply(self, root: Path) -> None:
        for name, text in self.written.items():
            (root / name).write_text(text, encoding="utf-8")
        for name in self.deleted:
            (root / name).unlink()


def plan(root: Path, *, drop: tuple[str, str] | None = None) -> Removal:
    """Plan the removal; `drop` names a new revision, which drops the table, and the one below it.

    Without `drop` the table's own migration goes, which no database may have seen then.
    """
    going = FILES if drop else (*FILES, MIGRATION)
    written = dict(_changed(root))
    if drop:
        revision, below = drop
        name = f"migrations/versions/{revision}_drop_customers.py"
        written[name] = DROP.format(revision=revision, below=below)
    return Removal(tuple(name for name in going if (root / name).exists()), written)


def is_there(root: Path) -> bool:
    """Whether the service has anything of the example."""
    return any((root / name).exists() for name in FILES) or any(
        isinstance(node, ast.ClassDef) and node.name == MODEL for node in _body(root / MODELS)
    )


def uses(root: Path) -> list[str]:
    """Where code beside the example needs it, as `file:line`."""
    return [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in _others(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import) and _needs_example(node)
    ]


def _needs_example(node: ast.ImportFrom | ast.Import) -> bool:
    names = {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
        return bool(names & _MODULES)
    if node.module == "app.models":
        return MODEL in names
    return node.module in _MODULES or any(f"{node.module}.{name}" in _MODULES for name in names)


def _others(root: Path) -> Iterator[Path]:
    """The service's Python files that are not the example's."""
    for folder in ("app", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if path.relative_to(root).as_posix() not in (*FILES, MODELS):
                yield path


def _changed(root: Path) -> Iterator[tuple[str, str]]:
    models = root / MODELS
    if models.exists():
        yield MODELS, without_model(models.read_text(encoding="utf-8"), kept=_imported(root))
    readme = root / "README.md"
    if readme.exists():
        yield "README.md", _MARKED.sub("", readme.read_text(encoding="utf-8"))
    for name in _ANSWERS:
        if (root / name).exists():
            text = (root / name).read_text(encoding="utf-8")
            yield name, _ANSWER.sub(r'\1"false"', text)


def _imported(root: Path) -> frozenset[str]:
    """What other files take from the module of the models."""
    return frozenset(
        alias.name
        for path in _others(root)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "app.models"
        for alias in node.names
    )


def without_model(text: str, *, kept: frozenset[str] = frozenset()) -> str:
    """The module of the models without the example's, and without what only that one needed."""
    tree = ast.parse(text)
    gone: set[ast.stmt] = {
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == MODEL
    }
    if not gone:
        return text
    rest = [node for node in tree.body if node not in gone]
    helpers = {node for node in rest if isinstance(node, ast.FunctionDef) and node.name in _HELPERS}
    own = [node for node in rest if node not in helpers and not _is_head(node)]
    needed = kept | _names(own)
    gone |= {node for node in helpers if node.name not in needed}
    if not own and helpers <= gone:
        return NO_MODELS
    return _without(text, tree, gone)


def _without(text: str, tree: ast.Module, gone: set[ast.stmt]) -> str:
    """Cut the nodes out, with the blank lines before them and the imports that nobody needs."""
    needed = _names([node for node in tree.body if node not in gone and not _is_import(node)])
    lines: list[str | None] = list(text.splitlines())
    for node in tree.body:
        if node in gone:
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
            _cut(lines, first, node.end_lineno)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            kept = [alias for alias in node.names if (alias.asname or alias.name) in needed]
            _cut(lines, node.lineno, node.end_lineno, blank=not kept)
            if kept:
                names = ", ".join(map(ast.unparse, kept))
                lines[node.lineno - 1] = f"from {node.module} import {names}"
    if ast.get_docstring(tree) is not None:
        first, last = tree.body[0].lineno, tree.body[0].end_lineno
        _cut(lines, first, last, blank=False)
        lines[first - 1] = OWN_MODELS
    return "\n".join(line for line in lines if line is not None) + "\n"


def _cut(lines: list[str | None], first: int, last: int | None, *, blank: bool = True) -> None:
    """Cut lines, counted from 1; with those blank ones before that belong to them."""
    above, below = first - 1, last or first
    is_import = str(lines[first - 1]).startswith(("from ", "import "))
    between = [*lines[above - 1 : above], *lines[below : below + 1]] == ["", ""]
    if blank and is_import and between:  # it was alone in its group
        above -= 1
    while blank and not is_import and above > 0 and lines[above - 1] in ("", None):
        above -= 1
    for number in range(above, below):
        lines[number] = None


def _names(nodes: list[ast.stmt]) -> frozenset[str]:
    """Every name that the code reads."""
    return frozenset(
        one.id for node in nodes for one in ast.walk(node) if isinstance(one, ast.Name)
    )


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_head(node: ast.stmt) -> bool:
    """A docstring or an import."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or _is_import(node)


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body if path.exists() else []

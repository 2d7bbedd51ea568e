"""A service of an earlier version becomes one of today's by the steps of docs/upgrading.md."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.template.baking import ROOT, bake, clean_environment, run_generator
from tests.template.old_service import MIGRATION, OWN, SETTING, put, work_on
from tests.template.test_static import mypy, ruff

VERSIONS = tomllib.loads(Path(__file__).with_name("versions.toml").read_text(encoding="utf-8"))
DOCUMENT = (ROOT / "docs/upgrading.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```shell\n(.*?)^ *```$", DOCUMENT, re.MULTILINE | re.DOTALL)
LIMIT = 240.0  # seconds, for one command
# Of baking over: the edits of these files are of the kind that step 3 brings up to date.
CHECKOUT = re.compile(r"`(git checkout HEAD -- [^`]*)`")


def has_history() -> bool:
    """Whether git reads this repository, and has the commit of version 0.1.0."""
    done = subprocess.run(
        ["git", "cat-file", "-e", f"{VERSIONS['0.1.0']}^{{commit}}"],
        cwd=ROOT,
        env=clean_environment(HOME=str(ROOT.parent)),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


needs_history = pytest.mark.skipif(
    not has_history(),
    reason="this checkout lacks the commit of version 0.1.0; `git fetch --unshallow` brings it",
)
pytestmark = [pytest.mark.timeout(600), needs_history]


def run(folder: Path, *command: str, **changes: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(HOME=str(folder.parent), NATS_URLS="nats://127.0.0.1:1", **changes),
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def python(folder: Path, *command: str, **changes: str) -> str:
    return run(folder, sys.executable, "-m", *command, **changes)


def git(folder: Path, *command: str) -> str:
    identity = ("-c", "user.name=team", "-c", "user.email=team@example.org")
    return run(folder, "git", *identity, *command)


def commit(folder: Path, message: str) -> str:
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD").strip()


def old_template(into: Path) -> Path:
    """The template as it was in version 0.1.0, without a repository."""
    into.mkdir(parents=True)
    archive = into.parent / "old.tar"
    run(ROOT, "git", "archive", "--output", str(archive), VERSIONS["0.1.0"])
    shutil.unpack_archive(archive, into)
    return into


def present_template(into: Path) -> None:
    """Put the template of this working tree into the folder, over what is there."""
    for path in into.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    listed = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, into / name
        if source.exists() and not name.startswith(("tests/", "docs/", "chaos/", "benchmarks/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=True)


def fill(database: Path) -> None:
    """Leave what a service of version 0.1.0 would: a row of its own, and an event to send."""
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO refund (id) VALUES ('old')")
        connection.execute(
            "INSERT INTO jetstream_outbox_events (event_id, subject, payload) "
            "VALUES ('e-1', 'development.orders-service.sync.peer-service', '{}')"
        )
    connection.close()


def filled_database(service: Path) -> dict[str, str]:
    database = service.parent / "service.sqlite3"
    url = {"DATABASE_URL": f"sqlite+aiosqlite:///{database}"}
    python(service, "alembic", "upgrade", "head", **url)
    fill(database)
    return url


def check_database(service: Path, url: Mapping[str, str]) -> None:
    python(service, "alembic", "upgrade", "heads", **url)
    assert python(service, "alembic", "current", **url).count("(head)") == 2
    with sqlite3.connect(service.parent / "service.sqlite3") as connection:
        kept = connection.execute("SELECT id FROM refund").fetchall()
        waiting = connection.execute("SELECT event_id FROM jetstream_outbox_events").fetchall()
    connection.close()
    assert (kept, waiting) == ([("old",)], [("e-1",)])


def by_hand(service: Path, *, example: bool) -> None:
    """Steps 2 to 5 of "From 0.1.0 to 0.2.0", with the new app/settings.py in its place."""
    settings = service / "app/settings.py"
    settings.write_text(settings.read_text(encoding="utf-8") + SETTING, encoding="utf-8")
    invoices = service / "app/routers/invoices.py"
    text = invoices.read_text(encoding="utf-8")
    text = text.replace("app.settings import load_settings", "app.settings import Settings")
    text = text.replace("load_settings()", "load_settings(Settings)")
    text = text.replace(
        "from app.strict",
        "from jetstream_bridge.service import load_settings\nfrom app.strict",
    )
    invoices.write_text(text, encoding="utf-8")
    python(service, "jetstream_bridge.cli.upgrade_imports")
    for command in (["check", "--fix"], ["format"]):
        python(service, "ruff", *command, "--quiet", "--no-cache", "app", "migrations", "tests")
    if not example:
        migration = service / MIGRATION
        text = migration.read_text(encoding="utf-8")
        text = text.replace('down_revision = "0001"', "down_revision = None")
        text = text.replace("depends_on = None", 'depends_on = "0001"')
        migration.write_text(text, encoding="utf-8")


def check_service(service: Path, *, tests: int) -> None:
    ruff(service, "app", "migrations", "tests")
    said = python(service, "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider")
    assert f"{tests} passed" in said


def names(service: Path) -> set[str]:
    kept = git(service, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    return {name for name in kept if (service / name).exists()}


def test_cruft_takes_a_service_of_0_1_0_to_today(tmp_path: Path, mypy_cache: Path) -> None:
    template = old_template(tmp_path / "template")
    before = commit(template, "0.1.0")
    present_template(template)
    commit(template, "today")
    answers = '{"database": "sqlite"}'
    python(
        tmp_path,
        *("cruft", "create", str(template), "--checkout", before, "--no-input"),
        *("--extra-context", answers),
    )
    service = tmp_path / "orders-service"
    made = commit(service, "made")
    work_on(service, example=True)
    dependency = '    "nats-py[nkeys]>=2.16,<3",\n'
    project = service / "pyproject.toml"
    assert dependency in project.read_text(encoding="utf-8")
    put(project, dependency, '    "babel>=2.16",\n')
    put(service / "app/presets.py", "PRESETS", "OWN = 1\n")
    put(service / "tests/apps.py", "def make_app", "OWN = 1\n\n\n")
    commit(service, "the team's work")
    url = filled_database(service)

    assert "tests/apps.py" in python(service, "cruft", "diff")
    git(service, "checkout", made, "--", "tests/apps.py")
    commit(service, "no edit of a file that goes")
    python(service, "cruft", "update", "--skip-apply-ask", "--checkout", "HEAD")
    status = git(service, "status", "--porcelain").splitlines()
    conflicts = [line for line in status if "U" in line[:2] or line[:2] in ("AA", "DD")]
    assert conflicts == ["UU app/settings.py"]
    assert not list(service.rglob("*.rej"))
    git(service, "checkout", "--theirs", "app/settings.py")
    edited = python(service, "cruft", "diff")
    assert re.findall(r"^-OWN = 1$", edited, re.MULTILINE) == ["-OWN = 1"]
    presets = service / "jetstream_bridge/service/presets.py"
    presets.write_text(presets.read_text("utf-8").replace("OWN = 1\n", ""), encoding="utf-8")
    assert "jetstream_bridge/" not in python(service, "cruft", "diff")
    by_hand(service, example=True)

    assert not list((service / "app/bridge").rglob("*.py"))  # a folder of caches may stay
    assert '"babel>=2.16"' in project.read_text(encoding="utf-8")
    assert "/greeting" in (service / "app/routers/customers.py").read_text(encoding="utf-8")
    check_service(service, tests=19)
    mypy(service, mypy_cache)
    check_database(service, url)


@pytest.mark.parametrize("example", [True, False])
def test_baking_over_takes_a_service_of_0_1_0_to_today(tmp_path: Path, example: bool) -> None:
    old = old_template(tmp_path / "template")
    answers: dict[str, str | bool] = {"database": "sqlite", "include_example": example}
    baked = run_generator(tmp_path / "out", template=old, answers=answers)
    assert baked.returncode == 0, baked.stderr
    service = tmp_path / "out/orders-service"
    work_on(service, example=example)
    commit(service, "the team's work")
    url = filled_database(service)

    file = str(service / ".cookiecutter.yaml")
    done = run_generator(
        tmp_path / "out", "--overwrite-if-exists", "--config-file", file, template=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "app/bridge" in done.stderr
    for block in BLOCKS:
        run(service, "sh", "-ec", block)
    (checkout,) = CHECKOUT.findall(DOCUMENT)
    run(service, *(checkout if example else "git checkout HEAD -- app/models.py").split())
    by_hand(service, example=example)

    fresh = bake(tmp_path / "fresh", **answers)
    assert names(service) == names(fresh) | {*OWN, MIGRATION}
    check_service(service, tests=19 if example else 9)
    check_database(service, url)


def test_an_update_of_the_package_touches_nothing_else(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.mkdir()
    present_template(template)
    commit(template, "today")
    python(tmp_path, "cruft", "create", str(template), "--no-input")
    service = tmp_path / "orders-service"
    add_to = (service / "app/routers/customers.py", service / "app/models.py")
    for path in add_to:
        path.write_text(path.read_text(encoding="utf-8") + "\nOWN = 1\n", encoding="utf-8")
    commit(service, "the team's work")

    package = template / "<<cookiecutter.service_slug>>/jetstream_bridge"
    clock = package / "core/clock.py"
    clock.write_text(clock.read_text(encoding="utf-8") + "\nNEW = 1\n", encoding="utf-8")
    (package / "migrations/versions/bridge_9999_new.py").write_text('"""New."""\n', "utf-8")
    (package / "core/limits.py").unlink()
    commit(template, "a newer package")
    python(service, "cruft", "update", "--skip-apply-ask")

    changed = {line[3:] for line in git(service, "status", "--porcelain").splitlines()}
    assert changed == {
        ".cruft.json",
        "jetstream_bridge/core/clock.py",
        "jetstream_bridge/core/limits.py",
        "jetstream_bridge/migrations/versions/bridge_9999_new.py",
    }

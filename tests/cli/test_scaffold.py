"""New handlers and events: written whole, green at once, or refused with nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import cli
from app.settings import Settings
from jetstream_bridge import Consumers, Event


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a service in which nothing is written yet."""
    root = tmp_path / "service"
    for folder in ("app/consumers", "app/routers", "tests"):
        (root / folder).mkdir(parents=True)
    monkeypatch.setattr(Settings, "root", root)
    return root


@pytest.fixture(autouse=True)
def consumers(monkeypatch: pytest.MonkeyPatch) -> Consumers:
    """What is registered already: this."""
    consumers = Consumers()

    @consumers.on("customer.*")
    async def keep_customers(event: Event[dict[str, object]]) -> None: ...

    monkeypatch.setattr("app.consumers.load_consumers", lambda: consumers)
    return consumers


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["new", *arguments])


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_a_new_consumer_is_a_handler_and_its_test(root: Path) -> None:
    result = run("consumer", "invoice.paid")

    assert result.exit_code == 0, result.output
    assert files(root) == {
        "app/consumers/invoice_paid.py",
        "tests/consumers/__init__.py",
        "tests/consumers/test_invoice_paid.py",
    }
    written = (root / "app/consumers/invoice_paid.py").read_text()
    assert '@consumers.on("invoice.paid")\nasync def handle_invoice_paid(' in written
    assert "class InvoicePaid(BaseModel):" in written


def test_a_new_event_is_a_declared_payload_and_its_test(root: Path) -> None:
    result = run("event", "order.line-item.added")

    assert result.exit_code == 0, result.output
    assert files(root) == {
        "app/events/order_line_item_added.py",
        "tests/events/__init__.py",
        "tests/events/test_order_line_item_added.py",
    }
    written = (root / "app/events/order_line_item_added.py").read_text()
    assert "class OrderLineItemAdded(BaseModel):" in written
    assert '@publishes("order.line-item.added")\nclass ' in written


def test_a_service_of_before_is_told_to_make_room_for_declared_events(root: Path) -> None:
    (root / "app/events.py").write_text("")
    result = run("event", "order.placed")

    assert result.exit_code == 2
    assert "app/events.py is one module; make it app/events/__init__.py" in result.stderr
    assert files(root) == {"app/events.py"}


def test_a_person_is_told_what_was_written_and_what_comes_next(root: Path) -> None:
    said = run("consumer", "invoice.paid").stdout.splitlines()

    assert said[:4] == [
        "Written:",
        "  app/consumers/invoice_paid.py         InvoicePaid and its handler",
        "  tests/consumers/test_invoice_paid.py  its tests",
        "Next:",
    ]
    assert all(len(line) <= 100 for line in said)
    assert "make test" in said[-1]


def test_a_program_is_told_in_json(root: Path) -> None:
    told = json.loads(run("event", "order.placed", "--json").stdout)

    assert told["event_type"] == "order.placed"
    assert set(told["written"]) == files(root)


@pytest.mark.parametrize(
    "event_type",
    [
        "invoice",
        "Invoice.paid",
        "invoice.",
        ".paid",
        "invoice..paid",
        "invoice.*",
        "*",
        "a b.c",
        "../etc.passwd",
        "invoice.paid\n",
        "1nvoice.paid",
        "rechnung.größe",
        f"a.{'b' * 55}",
    ],
)
@pytest.mark.parametrize("kind", ["consumer", "event"])
def test_what_is_no_event_type_is_refused_in_one_line(
    root: Path, kind: str, event_type: str
) -> None:
    result = run(kind, event_type)

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert repr(event_type) in result.stderr
    assert "write it like invoice.paid" in result.stderr
    assert files(root) == set()


def test_a_type_that_a_handler_gets_already_is_refused(root: Path) -> None:
    result = run("consumer", "customer.renamed")

    assert result.exit_code == 2
    assert "keep_customers" in result.stderr
    assert "gets it already; an event has one handler" in result.stderr
    assert files(root) == set()


@pytest.mark.parametrize("kind", ["consumer", "event"])
def test_a_second_time_is_refused_and_changes_nothing(root: Path, kind: str) -> None:
    assert run(kind, "order.placed").exit_code == 0
    before = {name: (root / name).read_bytes() for name in files(root)}
    result = run(kind, "order.placed")

    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert {name: (root / name).read_bytes() for name in files(root)} == before


def test_an_event_that_a_route_publishes_already_is_refused(root: Path) -> None:
    (root / "app/routers/orders.py").write_text(
        '"""Not this: announce("order.placed")."""\n\nasync def place() -> None:\n'
        '    await announce(events, "order.placed", order)\n'
    )
    result = run("event", "order.placed")

    assert result.exit_code == 2
    assert result.stderr == (
        "order.placed: app/routers/orders.py:4 has it already; change it there\n"
    )


def test_a_module_that_is_no_python_is_named(root: Path) -> None:
    (root / "app/routers/orders.py").write_text("def\n")
    result = run("event", "order.placed")

    assert result.exit_code == 1
    assert result.stderr.startswith("app/routers/orders.py is no Python (")
    assert files(root) == {"app/routers/orders.py"}


def test_an_event_that_is_only_handled_here_may_be_announced_too(root: Path) -> None:
    assert run("consumer", "invoice.paid").exit_code == 0
    assert run("event", "invoice.paid").exit_code == 0


def test_a_test_that_is_in_the_way_is_not_overwritten(root: Path) -> None:
    (root / "tests/consumers").mkdir()
    (root / "tests/consumers/test_invoice_paid.py").write_text("mine")
    result = run("consumer", "invoice.paid")

    assert result.exit_code == 2
    assert "tests/consumers/test_invoice_paid.py exists already" in result.stderr
    assert files(root) == {"tests/consumers/test_invoice_paid.py"}


def test_what_cannot_be_written_whole_is_taken_back(root: Path) -> None:
    (root / "tests/consumers").touch()  # a file where the folder should be
    result = run("consumer", "invoice.paid")

    assert result.exit_code == 1
    assert result.stderr.startswith("nothing was written: ")
    assert files(root) == {"tests/consumers"}


def test_a_disk_that_fills_up_leaves_nothing_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open
    count = iter(range(10))

    def failing(path: Path, *arguments: str, **options: str) -> object:
        if next(count) == 2:
            raise OSError("No space left on device")
        return opened(path, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", failing)
    result = run("event", "order.placed")

    assert (result.exit_code, result.stderr) == (
        1,
        "nothing was written: No space left on device\n",
    )
    assert files(root) == set()
    assert not (root / "app/events").exists()


def test_handlers_that_cannot_be_loaded_are_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Consumers:
        raise ImportError("no module named 'x'")

    monkeypatch.setattr("app.consumers.load_consumers", broken)
    result = run("consumer", "invoice.paid")

    assert result.exit_code == 1
    assert "(ImportError: no module named 'x')" in result.stderr
    assert files(root) == set()


def test_a_name_that_the_module_imports_is_not_taken(root: Path) -> None:
    assert run("consumer", "base.model").exit_code == 0
    assert (
        "class BaseModelPayload(BaseModel):" in (root / "app/consumers/base_model.py").read_text()
    )


def test_help_has_an_example_for_each_command() -> None:
    for kind in ("consumer", "event"):
        result = run(kind, "--help")
        assert result.exit_code == 0
        assert f"Example: python -m app.cli new {kind} " in result.stdout

"""The post hook leaves what was chosen, and nothing that belongs to the user is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import post_gen_project as hook
import pre_gen_project
import pytest

from tests.template.baking import TEMPLATE

ANSWERS: dict[str, object] = {
    "service_slug": "orders-service",
    "database": "sqlite",
    "include_example": True,
    "deployment": "none",
    "ci": "github",
    "license": "MIT",
    "bridge": "vendored",
}


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def service(tmp_path: Path) -> Path:
    folder = tmp_path / "orders-service"
    write(folder, ".env.example", "app/main.py")
    return folder


@pytest.mark.parametrize("path", sorted({path for _, _, path in hook.PARTS}))
def test_every_part_of_the_table_is_in_the_template(path: str) -> None:
    assert (TEMPLATE / path).exists()


def test_a_part_stays_with_its_answer_and_goes_with_any_other(service: Path) -> None:
    write(service, ".github/workflows/ci.yml", ".gitlab-ci.yml")
    hook.keep_what_was_chosen(service, ANSWERS | {"ci": "gitlab"})
    assert tree(service) == {".env.example", "app/main.py", ".gitlab-ci.yml"}


def test_an_overlay_takes_its_place_with_its_answer(service: Path) -> None:
    write(service, "LICENSE", "_license_apache/LICENSE", "_license_apache/new/a.txt")
    hook.keep_what_was_chosen(service, ANSWERS | {"license": "Apache-2.0"})
    assert (service / "LICENSE").read_text(encoding="utf-8") == "_license_apache/LICENSE"
    assert (service / "new/a.txt").exists()
    assert not (service / "_license_apache").exists()


def test_an_overlay_goes_without_a_trace_with_another_answer(service: Path) -> None:
    write(service, "LICENSE", "_license_apache/LICENSE", "_license_apache/new/a.txt")
    hook.keep_what_was_chosen(service, ANSWERS)
    assert (service / "LICENSE").read_text(encoding="utf-8") == "LICENSE"
    assert tree(service) == {".env.example", "app/main.py", "LICENSE"}


def test_caches_go_and_the_users_environment_and_repository_stay(service: Path) -> None:
    kept = {".venv/lib/__pycache__/a.pyc", ".git/__pycache__/b"}
    write(service, *kept, "app/__pycache__/main.pyc", "tests/.pytest_cache/v/x", "app/old.pyc")
    write(service, ".mypy_cache/3.11/x", ".ruff_cache/x", ".hypothesis/unicode/x")
    hook.remove_caches(service)
    assert tree(service) == {".env.example", "app/main.py", *kept}


def test_env_is_made_from_the_example_and_readable_by_its_owner_only(service: Path) -> None:
    hook.write_env(service)
    assert (service / ".env").read_text(encoding="utf-8") == ".env.example"
    assert (service / ".env").stat().st_mode & 0o777 == 0o600


def test_an_env_that_is_there_is_left_alone(service: Path) -> None:
    (service / ".env").write_text("ADMIN_TOKEN=secret\n", encoding="utf-8")
    hook.write_env(service)
    assert (service / ".env").read_text(encoding="utf-8") == "ADMIN_TOKEN=secret\n"


def test_a_repository_is_made_where_none_is(service: Path) -> None:
    hook.init_repository(service)
    assert (service / ".git").is_dir()
    head = (service / ".git/HEAD").read_text(encoding="utf-8")
    assert head == "ref: refs/heads/main\n"


@pytest.mark.parametrize("kind", ["work tree", "linked work tree"])
def test_no_repository_is_made_inside_another(service: Path, kind: str) -> None:
    if kind == "work tree":
        subprocess.run(["git", "init", "--quiet"], cwd=service.parent, check=True)
    else:
        (service.parent / ".git").write_text("gitdir: elsewhere\n", encoding="utf-8")
    hook.init_repository(service)
    assert not (service / ".git").exists()


def test_a_git_hooks_variables_do_not_lead_the_repository_astray(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere.git"))
    hook.init_repository(service)
    assert (service / ".git").is_dir()
    assert not (tmp_path / "elsewhere.git").exists()


def test_without_git_the_bake_goes_on(
    service: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    hook.finish(service, ANSWERS)
    assert not (service / ".git").exists()
    assert "No git repository was made" in capsys.readouterr().err


def test_a_git_that_fails_says_why_and_the_bake_goes_on(
    service: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "bin/git"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho disk full >&2\nexit 128\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent), prepend=":")
    hook.finish(service, ANSWERS)
    assert "disk full" in capsys.readouterr().err


def test_cruft_gets_no_repository_and_no_next_steps(
    service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.finish(service, ANSWERS | {"_commit": "0123abc"})
    assert not (service / ".git").exists()
    assert capsys.readouterr().out == ""


def test_what_an_old_layout_left_is_named_and_stays(
    service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.finish(service, ANSWERS)
    assert capsys.readouterr().err == ""
    write(service, "app/bridge/bridge.py", "app/routers/admin/dlq.py", "app/routers/admin.py")
    before = tree(service)
    hook.finish(service, ANSWERS)
    said = capsys.readouterr().err
    assert "has left app/bridge, app/routers/admin: delete" in said
    assert "docs/upgrading.md" in said
    assert tree(service) == before


def test_the_next_steps_are_four_lines(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hook.finish(service, ANSWERS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"cd {service}"


def test_what_is_put_aside_comes_back_and_the_templates_stays_beside(
    service: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(service, "app/own.py", "tests/test_own.py", "Makefile", "app/__pycache__/own.pyc")
    pre_gen_project.put_aside(service)
    for name in ("app/main.py", "app/own.py", "Makefile"):
        (service / name).write_text("the template's", encoding="utf-8")
    (service / "app/new.py").write_text("the template's", encoding="utf-8")
    (service / "tests/test_own.py").unlink()

    hook.give_back(service)

    assert (service / "app/own.py").read_text(encoding="utf-8") == "app/own.py"
    assert (service / "tests/test_own.py").read_text(encoding="utf-8") == "tests/test_own.py"
    assert (service / "Makefile").read_text(encoding="utf-8") == "the template's"
    assert (service / "app/new.py").read_text(encoding="utf-8") == "the template's"
    beside = tree(service / hook.BESIDE)
    assert beside == {"app/main.py", "app/own.py"}
    assert not (service / hook.ASIDE).exists()
    said = capsys.readouterr().err
    assert "Kept as they are, since they are the team's: app/main.py, app/own.py." in said


def test_what_a_bake_that_was_cut_off_left_is_not_written_over(service: Path) -> None:
    pre_gen_project.put_aside(service)
    with pytest.raises(SystemExit, match=r"put them back where they are missing"):
        pre_gen_project.put_aside(service)


def test_a_new_service_has_nothing_to_put_aside(tmp_path: Path) -> None:
    pre_gen_project.put_aside(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_both_hooks_speak_of_one_folder() -> None:
    assert hook.ASIDE == pre_gen_project.ASIDE
    assert pre_gen_project.OLD_LAYOUT in hook.OLD_LAYOUT

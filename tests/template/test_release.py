"""`make release` makes one commit and one tag, or nothing at all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jetstream_bridge
import release
from release import CHANGELOG, PACKAGE, PLACES, UPGRADING, RefusedError
from tests.template.baking import ROOT, clean_environment

FINE = ("true",)


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(
        ["git", *who, *arguments],
        cwd=root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that have a version, in a repository of their own, with steps for 9.1.0."""
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(name, "a")
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@b.c")
    for name in (*PLACES, CHANGELOG):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"))
    with (tmp_path / UPGRADING).open("a") as page:
        page.write("\n## From 9.0.0 to 9.1.0\n\nNothing.\n")
    (tmp_path / CHANGELOG).write_text("# Changelog\n\n## [Unreleased]\n\n### Changed\n\n- All.\n")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "First")
    return tmp_path


def make(repository: Path, version: str, *checks: str) -> str:
    return release.release(version, checks=checks or FINE, push=False, root=repository)


def test_the_version_is_written_everywhere_committed_and_tagged(repository: Path) -> None:
    said = make(repository, "9.1.0")
    publish = "git push --atomic origin main v9.1.0"
    assert said == f"v9.1.0 is tagged here; publish it with: {publish}"
    assert '__version__ = "9.1.0"' in (repository / PACKAGE).read_text()
    for name in ("<<cookiecutter.service_slug>>/pyproject.toml", UPGRADING):
        assert "jetstream-bridge>=9.1.0,<9.2" in (repository / name).read_text()
    changelog = (repository / CHANGELOG).read_text()
    assert re.search(r"## \[Unreleased\]\n\n## \[9\.1\.0\] - \d{4}-\d\d-\d\d\n", changelog)
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "log", "--format=%s") == "Release 9.1.0\nFirst"
    tag = git(repository, "tag", "--list", "--format=%(contents)", "v9.1.0")
    assert tag == "9.1.0\n\n### Changed\n\n- All."
    assert git(repository, "cat-file", "-t", "v9.1.0") == "tag"


@pytest.mark.parametrize("version", ["9.1", "v9.1.0", "9.1.0rc1", ""])
def test_what_is_no_version_is_refused(repository: Path, version: str) -> None:
    with pytest.raises(RefusedError, match="is no version; write one like"):
        make(repository, version)


def test_another_branch_and_open_changes_are_refused(repository: Path) -> None:
    (repository / "new").write_text("")
    with pytest.raises(RefusedError, match=r"not committed:\n\?\? new"):
        make(repository, "9.1.0")
    (repository / "new").unlink()
    git(repository, "switch", "--quiet", "--create", "side")
    with pytest.raises(RefusedError, match="branch 'side'; a release is made of main"):
        make(repository, "9.1.0")


def test_a_version_that_is_not_above_the_newest_is_refused(repository: Path) -> None:
    git(repository, "tag", "v9.1.0")
    git(repository, "tag", "v9.10.0")
    with pytest.raises(RefusedError, match=r"v9\.1\.0 is released already"):
        make(repository, "9.1.0")
    with pytest.raises(RefusedError, match=r"9\.2\.0 is not above 9\.10\.0"):
        make(repository, "9.2.0")


def test_a_release_says_what_has_changed_and_what_to_do(repository: Path) -> None:
    with pytest.raises(RefusedError, match=r"no section `## From … to 9\.2\.0`"):
        make(repository, "9.2.0")
    (repository / CHANGELOG).write_text("# Changelog\n\n## [Unreleased]\n\n## [9.0.0]\n\n- Old\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Nothing")
    with pytest.raises(RefusedError, match="nothing under Unreleased"):
        make(repository, "9.1.0")


def test_a_check_that_fails_leaves_everything_as_it_was(repository: Path) -> None:
    with pytest.raises(RefusedError, match="false ended with status 1; nothing was released"):
        make(repository, "9.1.0", "true", "false")
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag") == ""
    assert git(repository, "log", "--format=%s") == "First"


def test_what_a_check_writes_beside_the_version_is_refused(repository: Path) -> None:
    with pytest.raises(RefusedError, match=r"the checks have written new page\.md; look at it"):
        make(repository, "9.1.0", "touch 'new page.md'")
    assert git(repository, "status", "--porcelain") == '?? "new page.md"'
    assert git(repository, "log", "--format=%s") == "First"


def test_a_commit_that_git_refuses_leaves_everything_as_it_was(repository: Path) -> None:
    hook = repository / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(RefusedError, match="git commit: not today"):
        make(repository, "9.1.0")
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag") == ""


@pytest.fixture
def origin(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the repository is a clone of; it has the first commit."""
    bare = tmp_path_factory.mktemp("origin")
    git(bare, "init", "--quiet", "--bare", "--initial-branch", "main")
    git(repository, "remote", "add", "origin", str(bare))
    git(repository, "push", "--quiet", "origin", "main")
    return bare


def test_nothing_is_pushed_unless_somebody_says_so(repository: Path, origin: Path) -> None:
    make(repository, "9.1.0")
    assert git(origin, "log", "--format=%s", "main") == "First"
    assert git(origin, "tag") == ""


def test_a_push_takes_the_commit_and_this_tag(repository: Path, origin: Path) -> None:
    git(repository, "tag", "--annotate", "mine", "--message", "of nobody else")
    said = release.release("9.1.0", checks=FINE, push=True, root=repository)
    assert said == "v9.1.0 is pushed; the pipeline publishes it"
    assert git(origin, "log", "--format=%s", "main") == "Release 9.1.0\nFirst"
    assert git(origin, "tag") == "v9.1.0"


def test_a_push_onto_a_main_that_went_on_publishes_nothing(repository: Path, origin: Path) -> None:
    other = origin.parent / f"{origin.name}-other"
    git(origin, "clone", "--quiet", str(origin), str(other))
    git(other, "commit", "--quiet", "--allow-empty", "--message", "Second")
    git(other, "push", "--quiet", "origin", "main")
    with pytest.raises(RefusedError, match=r"git push: (?s:.)*rejected"):
        release.release("9.1.0", checks=FINE, push=True, root=repository)
    assert git(origin, "log", "--format=%s", "main") == "Second\nFirst"
    assert git(origin, "tag") == ""


CHANGED = (
    "# Changelog\n\n## [9.1.0] - 2030-01-02\n\n### Changed\n\n- All.\n\n## [9.0.0] - 2030-01-01\n"
)


def test_the_notes_of_a_release_are_its_section() -> None:
    assert release.changes(CHANGED, "9.1.0") == "### Changed\n\n- All.\n"
    with pytest.raises(RefusedError, match=r"no section `## \[9\.2\.0\] - date`"):
        release.changes(CHANGED, "9.2.0")


def test_the_command_prints_the_notes_with_no_package_but_pythons() -> None:
    """The pipeline asks for them where nothing is installed."""
    command = [sys.executable, "-I", "-S", "release.py", "--notes", "0.0.1"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    said = "no release: CHANGELOG.md has no section `## [0.0.1] - date`\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_release_without_steps_is_found() -> None:
    assert release.without_steps(CHANGED, "") == ["9.1.0"]
    assert release.without_steps(CHANGED, "## From 9.0.0 to 9.1.0\n") == []


def test_every_release_says_what_to_do_and_they_come_in_order() -> None:
    changelog = (ROOT / CHANGELOG).read_text(encoding="utf-8")
    assert release.without_steps(changelog, (ROOT / UPGRADING).read_text(encoding="utf-8")) == []
    first, *headings = re.findall(r"(?m)^## .*$", changelog)
    assert first == "## [Unreleased]"
    found = [re.fullmatch(r"## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", one) for one in headings]
    assert all(found), headings
    versions = [release.numbers(one[1]) for one in found if one]
    assert versions == sorted(versions, reverse=True)


def test_every_place_of_the_version_is_known() -> None:
    now = jetstream_bridge.__version__
    tracked = git(ROOT, "ls-files", "-z", "--", "*.toml", "*.py", "*.json", "*.yml").split("\0")
    pattern = re.compile(rf'(?:version|__version__) = "{re.escape(now)}"|jetstream-bridge>={now}')
    places = {
        name
        for name in filter(None, tracked)
        if not name.startswith("tests/") and pattern.search((ROOT / name).read_text("utf-8"))
    }
    assert places <= set(PLACES)
    for name, (known, _) in PLACES.items():
        assert re.search(known, (ROOT / name).read_text(encoding="utf-8")), name


def test_the_versions_agree() -> None:
    assert f'version = "{jetstream_bridge.__version__}"' in (ROOT / "pyproject.toml").read_text()

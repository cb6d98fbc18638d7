"""Repositories that somebody made to be taken along, .git and all: no program of theirs runs here, no file of the
user's goes with them."""

import hashlib
from pathlib import Path

import pytest
from tests.unit.workspace_guest import Guest
from tests.unit.workspace_repos import Repos, send

from banger.errors import Failure
from banger.workspace import repo as repos_
from banger.workspace.options import Options
from banger.workspace.plan import plan

pytestmark = pytest.mark.usefixtures("nothing_left")
SECRET = "the user's alone"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    place = tmp_path / "secret"
    place.write_text(SECRET)
    return place


def brought(guest: Guest) -> bytes:
    """All that is in the guest, in one piece."""
    return b"".join(path.read_bytes() for path in guest.home.rglob("*") if path.is_file())


@pytest.mark.parametrize("options", [Options(), Options(from_ref="HEAD")])
@pytest.mark.parametrize("name", ["x", "a=b", "a b.c=", "=", "lfs"])
def test_no_filter_of_theirs_runs(
    repos: Repos, guest: Guest, tmp_path: Path, options: Options, name: str
) -> None:
    repos.git(tmp_path, "config", "--global", "filter.lfs.smudge", "cat")
    attributes = "* filter=lfs\n" if name == "lfs" else f"* filter={name.replace(' ', '_')}\n"
    repo = repos.make({"a": "1", ".gitattributes": attributes})
    for verb in ("clean", "smudge", "process"):
        repos.git(repo, "config", f"filter.{name.replace(' ', '_')}.{verb}", f"touch {tmp_path}/ran; cat")
    (repo / "a").write_text("2")
    send(repo, guest, options)
    assert not (tmp_path / "ran").exists()
    assert (guest.home / "app/a").read_text() == ("1" if options.from_ref else "2")


def test_a_filter_of_the_users_own_does(repos: Repos, guest: Guest, tmp_path: Path) -> None:
    """As `git checkout` has it."""
    repos.git(tmp_path, "config", "--global", "filter.mine.smudge", "tr a b")
    repo = repos.make({"a": "aaa\n", ".gitattributes": "a filter=mine\n"})
    send(repo, guest, Options(from_ref="HEAD"))
    assert (guest.home / "app/a").read_text() == "bbb\n"


@pytest.mark.parametrize("name", ["exclude", "attributes", "sparse-checkout"])
def test_links_in_git(repos: Repos, guest: Guest, secret: Path, name: str) -> None:
    repo = repos.make({"a": "1"})
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info" / name).unlink(missing_ok=True)
    (repo / ".git/info" / name).symlink_to(secret)
    send(repo, guest)
    assert SECRET.encode() not in brought(guest)


def test_a_file_that_it_says_is_ignored_by_the_user(repos: Repos, guest: Guest, secret: Path) -> None:
    repo = repos.make({"a": "1"})
    repos.git(repo, "config", "core.excludesFile", str(secret))
    send(repo, guest)
    assert SECRET.encode() not in brought(guest)


def test_files_that_it_says_are_its_own(repos: Repos, secret: Path) -> None:
    """`secret` is in its index, and its settings say that the folder above is its working tree."""
    repo = repos.make({"secret": "1"})
    repos.git(repo, "config", "core.worktree", str(secret.parent))
    for path in (repo, repo / "sub"):
        path.mkdir(exist_ok=True)
        with pytest.raises(Failure, match=r"has its files elsewhere, in .*: its setting core.worktree"):
            plan(path, Options())
        with pytest.raises(Failure, match="has its files elsewhere"):
            plan(path, Options(all_files=True))


@pytest.mark.parametrize("how", ["file", "link", "common"])
def test_a_git_folder_that_is_anothers(repos: Repos, how: str) -> None:
    """What was committed to a repository of the user's would go along."""
    private = repos.make({"secret": SECRET}, "private")
    repo = repos.make({"a": "1"})
    (repo / ".git").rename(repo / ".kept")
    if how == "file":
        (repo / ".git").write_text("gitdir: ../private/.git\n")
    elif how == "link":
        (repo / ".git").symlink_to("../private/.git")
    else:
        (repo / ".kept").rename(repo / ".git")
        (repo / ".git/commondir").write_text("../../private/.git\n")
    assert "secret" in repos.git(repo, "ls-tree", "--name-only", "HEAD")
    with pytest.raises(Failure, match=f"leads to another repository, {private}/.git"):
        plan(repo, Options())


def test_a_repository_whose_git_folder_is_elsewhere(repos: Repos, guest: Guest) -> None:
    repos.git(repos.folder, "init", "-q", f"--separate-git-dir={repos.folder}/kept ", "app")
    (repos.folder / "app/a").write_text("1")
    repos.git(repos.folder / "app", "add", "a")
    send(repos.folder / "app", guest)
    assert (guest.home / "app/a").read_text() == "1"


def test_an_index_that_leads_out(repos: Repos, secret: Path) -> None:
    repo = repos.make({"a": "1", "XX/secret": "1"}, str(secret.parent / "app"))
    index = repo / ".git/index"
    data = index.read_bytes()[:-20].replace(b"XX/secret", b"../secret")
    index.write_bytes(data + hashlib.sha1(data, usedforsecurity=False).digest())
    assert "../secret" in repos.git(repo, "ls-files")
    assert [entry.path for entry in plan(repo, Options()).files] == [b"a"]


def test_a_submodule_behind_a_link(repos: Repos, guest: Guest) -> None:
    """The commit that is asked for has a submodule where the checkout has a link to a repository of the user's."""
    private = repos.make({"secret": SECRET}, "private/b")
    tip = repos.git(private, "rev-parse", "HEAD").strip()
    repo = repos.make({"x": "1"})
    repos.git(repo, "update-index", "--add", "--cacheinfo", f"160000,{tip},a/b")
    repos.git(repo, "commit", "-qm", "submodule")
    repos.git(repo, "branch", "trap")
    repos.git(repo, "rm", "-q", "--cached", "a/b")
    (repo / "a").symlink_to(private.parent)
    repos.git(repo, "add", "a")
    repos.git(repo, "commit", "-qm", "link")
    found = plan(repo, Options(from_ref="trap"))
    assert [entry.path for entry in found.files] == [b"x", b"a/b"]
    assert found.warnings == (f"submodule a/b: its commit {tip[:12]} is not here: an empty folder",)


@pytest.mark.parametrize("name", ["ext", "file", "ssh", "https"])
def test_a_protocol_that_it_allows_itself(repos: Repos, name: str) -> None:
    """Of a partial clone git would get what is missing, from where the repository says."""
    repo = repos.make({"a": "1"})
    repos.git(repo, "config", f"protocol.{name}.allow", "always")
    assert repos_.find(repo).git.line("config", f"protocol.{name}.allow") == "never"


def test_what_is_missing_is_told(repos: Repos, guest: Guest) -> None:
    repo = repos.make({"a": "1"})
    blob = repos.git(repo, "rev-parse", "HEAD:a").strip()
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    repos.git(repo, "config", "core.repositoryFormatVersion", "1")
    repos.git(repo, "config", "extensions.partialClone", "origin")
    repos.git(repo, "config", "remote.origin.promisor", "true")
    with pytest.raises(Failure, match="unable to read"):
        send(repo, guest, Options(from_ref="HEAD"))

"""Workspaces on their way into a guest: real repositories, a real tar and git at the other end, a folder as /root."""

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.workspace_guest import Guest
from tests.unit.workspace_repos import Repos, contents, send

from banger.config import settings
from banger.errors import Failure
from banger.workspace.options import Options

pytestmark = pytest.mark.usefixtures("nothing_left")


def status(repos: Repos, repo: Path, *words: str) -> str:
    return repos.git(repo, "status", "--porcelain=v2", "--branch", *words)


def test_a_dirty_repository_looks_the_same_there(repos: Repos, guest: Guest):
    """Contents, modes and links; and git tells the same of them: staged, changed, deleted, renamed, a mode."""
    files = {
        "a": "1",
        "staged": "2",
        "both": "3",
        "gone": "4",
        "mode": "5",
        "old": "rename me, please" * 9,
        "d/same": "6",
    }
    repo = repos.make(files)
    (repo / "a").write_text("changed")
    (repo / "staged").write_text("staged")
    (repo / "both").write_text("staged first")
    (repo / "new").write_text("new, staged")
    (repo / "link").symlink_to("d/same")
    repos.git(repo, "add", "staged", "both", "new", "link")
    repos.git(repo, "mv", "old", "renamed")
    (repo / "both").write_text("then changed")
    (repo / "gone").unlink()
    (repo / "mode").chmod(0o755)
    (repo / "untracked").write_text("stays here")
    assert send(repo, guest) == ()
    there = guest.home / "app"
    expected = contents(repo)
    del expected["untracked"]
    assert contents(there) == expected
    assert stat.S_IMODE((there / "mode").stat().st_mode) == 0o755
    assert stat.S_IMODE((there / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((there / "d").stat().st_mode) == 0o755
    assert status(repos, there) == status(repos, repo, "--untracked-files=no")
    assert repos.git(there, "diff", "--cached") == repos.git(repo, "diff", "--cached")
    assert repos.git(there, "diff") == repos.git(repo, "diff")
    repos.git(there, "fsck", "--strict")
    assert list(guest.home.iterdir()) == [there]


def test_one_can_commit_there(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    (repo / "a").write_text("2")
    repos.git(repo, "commit", "-qam", "second")
    repos.git(repo, "tag", "-a", "v1.0", "-m", "release")
    send(repo, guest, Options(branch="try/this"))
    there = guest.home / "app"
    (there / "b").write_text("new")
    repos.git(there, "add", "b")
    repos.git(there, "commit", "-qm", "there")
    assert repos.git(there, "branch", "--show-current").strip() == "try/this"
    assert repos.git(there, "log", "--format=%s").split() == ["there", "second"]
    assert repos.git(there, "rev-parse", "HEAD~1") == repos.git(repo, "rev-parse", "HEAD")
    assert repos.git(there, "describe", "HEAD~1").strip() == "v1.0"
    repos.git(there, "fsck", "--strict")
    repos.git(there, "gc", "-q")


def test_who_commits_there(repos: Repos, guest: Guest, monkeypatch: pytest.MonkeyPatch):
    """The identity of this repository alone goes along with it, unless the user said no; one for all does not."""
    repo = repos.make({"a": "1"})
    repos.git(repo, "config", "user.email", 'al "work" ice@example.org')
    send(repo, guest)
    there = guest.home / "app/.git/config"
    assert repos.git(repo, "config", "-f", str(there), "user.email") == 'al "work" ice@example.org\n'
    assert "Alice" not in there.read_text()
    off = replace(settings(), forward=replace(settings().forward, git=False))
    monkeypatch.setattr("banger.config.settings", lambda: off)
    send(repo, guest, replace=True)
    assert "user" not in there.read_text()


def test_git_there_need_not_read_the_files_to_see_that_they_are_the_same(repos: Repos, guest: Guest):
    repo = repos.make({f"f{number}": "x" * number for number in range(50)})
    for path in repo.glob("f*"):
        os.utime(
            path, (1_700_000_000, 1_700_000_000)
        )  # not "changed within the second in which the index was written"
    repos.git(repo, "status")
    send(repo, guest)
    there = guest.home / "app"
    for path in there.glob("f*"):  # same size and time: what git would have to read to notice
        when = path.stat().st_mtime_ns
        path.write_bytes(b"y" * path.stat().st_size)
        os.utime(path, ns=(when, when))
    assert repos.git(there, "status", "--porcelain") == ""
    (there / "f7").write_text("noticed")
    assert repos.git(there, "status", "--porcelain") == " M f7\n"


def test_a_commits_tree(repos: Repos, guest: Guest):
    repo = repos.make({"a": "old", "run": "x", ".gitattributes": "*.txt text eol=crlf\n", "t.txt": "1\n2\n"})
    (repo / "run").chmod(0o755)
    (repo / "l").symlink_to("a")
    repos.git(repo, "add", "--all")
    repos.git(repo, "commit", "-qm", "second")
    (repo / "a").write_text("newer")
    repos.git(repo, "rm", "-q", "run")
    repos.git(repo, "commit", "-qam", "third")
    (repo / "a").write_text("not committed")
    assert send(repo, guest, Options(from_ref="HEAD~1", branch="b")) == ()
    there = guest.home / "app"
    assert (there / "a").read_text() == "old"
    assert (there / "t.txt").read_bytes() == b"1\r\n2\r\n"
    assert stat.S_IMODE((there / "run").stat().st_mode) == 0o755
    assert (there / "l").readlink() == Path("a")
    assert repos.git(there, "status", "--porcelain", "--branch") == "## b\n"
    assert repos.git(there, "log", "--format=%s").split() == ["second"]
    repos.git(there, "fsck", "--strict")


def test_untracked_and_ignored_files(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1", ".gitignore": "*.o\n"})
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info/exclude").write_text("private\n")
    for name in ("new", "x.o", "private"):
        (repo / name).write_text(name)
    send(repo, guest, Options(include_untracked=True))
    there = guest.home / "app"
    assert set(contents(there)) == {"a", "new", ".gitignore"}
    assert repos.git(there, "status", "--porcelain") == "?? new\n"
    send(repo, guest, Options(all_files=True), replace=True)
    assert set(contents(there)) == {"a", "new", ".gitignore", "x.o", "private"}
    assert repos.git(there, "status", "--porcelain") == "?? new\n"


def test_before_the_first_commit(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"}, commit=False)
    send(repo, guest)
    there = guest.home / "app"
    assert repos.git(there, "status", "--porcelain") == "A  a\n"
    repos.git(there, "commit", "-qm", "first")
    repos.git(there, "fsck", "--strict")
    empty = repos.make({}, "empty", commit=False)
    send(empty, guest)
    assert repos.git(guest.home / "empty", "status", "--porcelain") == ""


def test_submodules_worktrees_and_names(repos: Repos, guest: Guest):
    inner = repos.make({"i": "inner"}, "inner")
    middle = repos.make({"m": "middle"}, "middle")
    repos.submodule(middle, inner, "deep")
    outer = repos.make({"o": "outer"}, "outer")
    repos.submodule(outer, middle, "lib/mid dle")
    repos.submodule(outer, inner, "other")
    (outer / "lib/mid dle/m").write_text("changed")
    (outer / "other/i").write_text("committed")
    repos.git(outer / "other", "commit", "-qam", "in the submodule")
    send(outer, guest)
    there = guest.home / "outer"
    assert contents(there) == contents(outer)
    assert status(repos, there) == status(repos, outer)
    nearest = r" \([^)]*\)"  # the branch or tag
    told = [
        re.sub(nearest, "", repos.git(where, "submodule", "status", "--recursive"))
        for where in (there, outer)
    ]
    assert told[0] == told[1]
    for path in ("lib/mid dle", "lib/mid dle/deep", "other"):
        repos.git(there / path, "fsck", "--strict")
        assert repos.git(there / path, "status", "-z") == repos.git(outer / path, "status", "-z")
    assert (there / "lib/mid dle/.git").is_file()
    assert (there / ".git/modules/other/HEAD").is_file()
    repos.git(outer, "worktree", "add", "-q", "-b", "side", str(repos.folder / "side"))
    send(repos.folder / "side", guest)
    assert repos.git(guest.home / "side", "status", "--porcelain", "--branch") == "## side\n"


def test_submodules_of_a_commit(repos: Repos, guest: Guest):
    inner = repos.make({"i": "one"}, "inner")
    outer = repos.make({"o": "outer"}, "outer")
    repos.submodule(outer, inner, "lib")
    (outer / "lib/i").write_text("two")
    repos.git(outer / "lib", "commit", "-qam", "two")
    repos.git(outer, "commit", "-qam", "lib is two")
    send(outer, guest, Options(from_ref="HEAD~1"))
    assert (guest.home / "outer/lib/i").read_text() == "one"
    assert repos.git(guest.home / "outer", "status", "--porcelain") == ""


def test_a_sparse_checkout_stays_sparse(repos: Repos, guest: Guest):
    repo = repos.make({"in/a": "1", "out/b": "2", "top": "3"})
    repos.git(repo, "sparse-checkout", "set", "--sparse-index", "in")
    send(repo, guest)
    there = guest.home / "app"
    assert set(contents(there)) == {"in/a", "top"}
    assert repos.git(there, "status", "--porcelain") == ""
    repos.git(there, "sparse-checkout", "disable")
    assert (there / "out/b").read_text() == "2"


def test_a_partial_clone_whose_missing_files_nobody_fetches(repos: Repos, guest: Guest):
    origin = repos.make({"in/a": "1", "out/b": "2", "top": "3"}, "origin")
    repos.git(origin, "config", "uploadpack.allowFilter", "true")
    words = ("--filter=blob:none", "--sparse", f"file://{origin}", "app")
    repos.git(repos.folder, "clone", "-q", *words)
    repo = repos.folder / "app"
    repos.git(repo, "sparse-checkout", "set", "in")
    origin.rename(repos.folder / "moved")
    (repo / "in/a").write_text("changed")
    send(repo, guest)
    there = guest.home / "app"
    assert repos.git(there, "status", "--porcelain") == " M in/a\n"
    repos.git(there, "commit", "-qam", "there")


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_detached_shallow_clone_with_a_split_index(repos: Repos, guest: Guest, form: str):
    origin = repos.make({"a": "1"}, "origin", form=form)
    for number in range(3):
        (origin / "a").write_text(f"{number}")
        repos.git(origin, "commit", "-qam", f"{number}")
    repos.git(repos.folder, "clone", "-q", "--depth=1", f"file://{origin}", "app")
    repo = repos.folder / "app"
    repos.git(repo, "config", "remote.origin.url", "https://me:secret@example.org/app.git?token=secret")
    repos.git(repo, "update-index", "--split-index", "--untracked-cache")
    send(repo, guest)
    there = guest.home / "app"
    assert repos.git(there, "status", "--porcelain", "--branch") == "## main...origin/main\n"
    assert repos.git(there, "remote", "-v").split()[1] == "https://example.org/app.git"
    assert b"secret" not in (there / ".git/config").read_bytes()
    repos.git(repo, "checkout", "-q", "--detach")
    send(repo, guest, replace=True)
    assert status(repos, there) == status(repos, repo)
    repos.git(there, "fsck", "--strict")


def test_a_merge_that_stopped_and_lfs_pointers(repos: Repos, guest: Guest):
    """Both sides of a conflict are there; a filter whose program is missing concerns nobody."""
    repo = repos.make({"a": "base\n", "big": "version https://git-lfs.github.com/spec/v1\n"})
    repos.git(repo, "checkout", "-qb", "other")
    (repo / "a").write_text("other\n")
    repos.git(repo, "commit", "-qam", "other")
    repos.git(repo, "checkout", "-q", "main")
    (repo / "a").write_text("mine\n")
    (repo / ".gitattributes").write_text("big filter=lfs diff=lfs merge=lfs -text\n")
    repos.git(repo, "add", "--all")
    repos.git(repo, "commit", "-qam", "mine")
    with pytest.raises(AssertionError):
        repos.git(repo, "merge", "other")
    send(repo, guest)
    there = guest.home / "app"
    assert (there / "big").read_text() == (repo / "big").read_text()
    assert status(repos, there) == status(repos, repo)
    assert repos.git(there, "show", ":3:a") == "other\n"


def test_long_and_odd_names_a_large_file_and_old_times(repos: Repos, guest: Guest):
    repo = repos.make({})
    odd = [
        b"new\nline",
        b"latin-\xe9",
        b"-rf",
        b" ",
        b"d" * 200 + b"/" + b"e" * 200,
        b"p" * 90 + b"/" + b"q" * 90,
    ]
    for name in odd:
        path = repo / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    (repo / "far").symlink_to("x" * 300)
    (repo / "old").write_text("before 1970")
    os.utime(repo / "old", (-5, -5))
    data = os.urandom(3_000_001)
    (repo / "large").write_bytes(data)
    repos.git(repo, "add", "--all")
    send(repo, guest)
    there = guest.home / "app"
    assert (there / "large").read_bytes() == data
    assert contents(there) == contents(repo)


def test_a_plain_folder(repos: Repos, guest: Guest):
    folder = repos.folder / "plain"
    (folder / "sub/empty").mkdir(parents=True)
    (folder / "sub/file").write_text("1")
    (folder / "out").symlink_to("/etc")
    send(folder, guest, Options(all_files=True))
    there = guest.home / "plain"
    assert contents(there) == {"sub/file": b"1", "out": "/etc"}
    assert (there / "sub/empty").is_dir()
    assert not (there / ".git").exists()


def test_what_is_there_already(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    there = guest.home / "app"
    (there / "node_modules/deep").mkdir(parents=True)  # folders alone: where a disk is mounted
    send(repo, guest)
    assert (there / "node_modules/deep").is_dir()
    assert repos.git(there, "status", "--porcelain") == ""
    (there / "mine").write_text("work")
    with pytest.raises(Failure, match="is there already") as caught:
        send(repo, guest)
    assert "--replace" in caught.value.hint
    assert (there / "mine").read_text() == "work"
    send(repo, guest, replace=True)
    assert not (there / "mine").exists()
    assert repos.git(there, "status", "--porcelain") == ""
    assert list(guest.home.iterdir()) == [there]

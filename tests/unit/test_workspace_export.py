"""What comes back from a guest: as a branch, as a patch; and what of the user's repository nobody may touch."""

import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from tests.unit.workspace_guest import Guest
from tests.unit.workspace_repos import Repos, fingerprint, send

from banger.errors import Failure, UsageError
from banger.interrupt import Interrupted
from banger.progress import Progress
from banger.workspace.export import Brought, Wanted, export
from banger.workspace.options import Options

pytestmark = pytest.mark.usefixtures("nothing_left")
PATCH = Wanted(patch="-")
BRANCH = Wanted()


def bring(repo: Path, guest: Guest, wanted: Wanted = BRANCH) -> Brought:
    """Export, and see that but for one branch and new objects all is as it was, checkout and .git alike."""
    before = fingerprint(repo)
    try:
        found = export(repo, "web", wanted).run(guest.open_session, Progress("x", quiet=True))
    finally:
        after = fingerprint(repo)
        git = str(repo / ".git")
        made = {path for path in after if path not in before and not Path(path).is_dir()}
        branch = wanted.branch or "banger/web"
        allowed = tuple(
            f"{git}/{folder}" for folder in ("objects/", "refs/heads/banger", "logs/refs/heads/banger")
        )
        allowed += (f"{git}/refs/heads/{branch}", f"{git}/logs/refs/heads/{branch}")
        assert [path for path in made if not path.startswith(allowed)] == []
        changed = {path for path in before if before[path] != after.get(path)}
        assert {path for path in changed if not path.startswith(allowed)} == set()
    return found


@pytest.fixture
def trap(repos: Repos, tmp_path: Path) -> Path:
    """A file that is there when any hook of a repository ran: hooks for everything, of all repositories."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    ran = tmp_path / "ran"
    for name in (
        "reference-transaction",
        "post-checkout",
        "post-merge",
        "pre-auto-gc",
        "post-index-change",
        "post-commit",
    ):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
        (hooks / name).chmod(0o755)
    with (tmp_path / "gitconfig").open("a") as file:
        file.write(f"[core]\nhooksPath = {hooks}\n[gc]\nauto = 1\n[fetch]\nwriteCommitGraph = true\n")
    return ran


def test_commits_and_what_is_not_committed_as_a_branch(repos: Repos, guest: Guest, trap: Path):
    repo = repos.make({"a": "1", "b": "2", ".gitignore": "*.o\n"})
    send(repo, guest)
    trap.unlink(missing_ok=True)
    there = guest.home / "app"
    (there / "a").write_text("in the guest")
    repos.git(there, "commit", "-qam", "of the guest")
    (there / "b").unlink()
    (there / "new").write_text("never added")
    (there / "x.o").write_text("ignored")
    index, head = (there / ".git/index").read_bytes(), repos.git(there, "rev-parse", "HEAD")
    trap.unlink(missing_ok=True)
    found = bring(repo, guest)
    assert not trap.exists()
    assert (found.branch, found.commits) == ("banger/web", 2)
    assert repos.git(repo, "log", "--format=%s", "banger/web").splitlines() == [
        "Uncommitted changes in the VM web", "of the guest", "first",
    ]  # fmt: skip
    assert repos.git(repo, "diff", "--name-status", "main", "banger/web").split() == [
        "M",
        "a",
        "D",
        "b",
        "A",
        "new",
    ]
    assert repos.git(repo, "status", "--porcelain") == ""
    assert ((there / ".git/index").read_bytes(), repos.git(there, "rev-parse", "HEAD")) == (index, head)
    repos.git(repo, "fsck", "--strict")
    repos.git(repo, "merge", "-q", "banger/web")


def test_again_and_again_goes_forward(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    send(repo, guest)
    there = guest.home / "app"
    assert bring(repo, guest) == Brought()
    for number in range(3):
        (there / "a").write_text(f"change {number}")
        assert bring(repo, guest).commits == 1
        assert bring(repo, guest).commits == 0
        assert repos.git(repo, "show", "banger/web:a") == f"change {number}"
    (there / "a").write_text("1")  # back to the beginning is a change, too
    assert bring(repo, guest).commits == 1
    assert repos.git(repo, "show", "banger/web:a") == "1"


def test_a_branch_is_never_overwritten(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    send(repo, guest)
    there = guest.home / "app"
    (there / "a").write_text("2")
    bring(repo, guest)
    repos.git(repo, "checkout", "-q", "banger/web")
    (there / "a").write_text("3")
    with pytest.raises(Failure, match="is checked out") as caught:
        bring(repo, guest)
    assert "--branch" in caught.value.hint
    repos.git(repo, "commit", "-q", "--allow-empty", "-m", "mine")
    repos.git(repo, "checkout", "-q", "main")
    with pytest.raises(Failure, match="commits that the guest does not have") as caught:
        bring(repo, guest)
    assert "--branch banger/web-2" in caught.value.hint
    assert bring(repo, guest, Wanted(branch="banger/web-2")).commits == 1
    repos.git(repo, "branch", "-D", "banger/web", "banger/web-2")
    repos.git(repo, "branch", "banger")  # a branch in the place of the folder
    with pytest.raises(Failure, match="cannot be made"):
        bring(repo, guest)


def test_a_patch_fits_the_dirty_checkout(repos: Repos, guest: Guest):
    """It has what changed in the guest alone: not the user's own changes, which went along."""
    repo = repos.make({"a": "one\n" * 30, "b": "2", "gone": "3", "mode": "4"})
    (repo / "a").write_text("mine\n" + "one\n" * 29)
    (repo / "gone").unlink()
    (repo / "untracked").write_text("mine, too\n")
    send(repo, guest, Options(include_untracked=True))
    there = guest.home / "app"
    assert bring(repo, guest, PATCH) == Brought()
    (there / "a").write_text("mine\n" + "one\n" * 28 + "theirs\n")
    (there / "bin").write_bytes(bytes(range(256)))
    (there / "untracked").write_text("mine, too\nand theirs\n")
    (there / "mode").chmod(0o755)
    repos.git(there, "mv", "b", "moved")
    found = bring(repo, guest, PATCH)
    assert (found.branch, found.commits) == ("", 0)
    assert b"gone" not in found.patch
    patch = repos.folder / "patch"
    patch.write_bytes(found.patch)
    repos.git(repo, "apply", "--check", str(patch))
    repos.git(repo, "apply", str(patch))
    assert (repo / "a").read_text() == "mine\n" + "one\n" * 28 + "theirs\n"
    assert (repo / "bin").read_bytes() == bytes(range(256))
    assert (repo / "untracked").read_text() == "mine, too\nand theirs\n"
    assert ((repo / "moved").read_text(), (repo / "b").exists(), (repo / "gone").exists()) == (
        "2",
        False,
        False,
    )
    assert stat.S_IMODE((repo / "mode").stat().st_mode) & 0o100


def test_filters_of_the_user_do_not_run(repos: Repos, guest: Guest, tmp_path: Path):
    """As git-lfs is set up: a program that must succeed, and writes into the repository. The guest has none."""
    repo = repos.make({"big": "pointer", ".gitattributes": "big filter=lfs -text\n", "a": "1"})
    for key, value in (("clean", f"touch {tmp_path}/ran; false"), ("smudge", "false"), ("required", "true")):
        repos.git(repo, "config", f"filter.lfs.{key}", value)
    (repo / "big").write_text("content, changed here")
    send(repo, guest)
    there = guest.home / "app"
    (there / "a").write_text("2")
    patch = bring(repo, guest, PATCH).patch
    assert (b"+2" in patch, b"big" in patch) == (True, False)
    (there / "big").write_text("content, changed there")
    assert b"big" in bring(repo, guest, PATCH).patch
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_before_the_first_commit(repos: Repos, guest: Guest, form: str):
    repo = repos.make({"a": "1"}, commit=False, form=form)
    send(repo, guest)
    (guest.home / "app/a").write_text("2")
    assert b"+2" in bring(repo, guest, PATCH).patch
    assert bring(repo, guest).commits == 1
    assert repos.git(repo, "show", "banger/web:a") == "2"


def test_a_shallow_clone_a_worktree_and_a_submodule(repos: Repos, guest: Guest):
    origin = repos.make({"a": "1"}, "origin")
    repos.git(origin, "commit", "-q", "--allow-empty", "-m", "second")
    repos.git(repos.folder, "clone", "-q", "--depth=1", f"file://{origin}", "app")
    repo = repos.folder / "app"
    repos.submodule(repo, origin, "lib")
    side = repos.folder / "side"
    repos.git(repo, "worktree", "add", "-q", str(side))
    send(repo, guest)
    (guest.home / "app/a").write_text("2")
    assert bring(repo, guest).commits == 1
    (guest.home / "app/lib/a").write_text("in the submodule")
    found = export(repo / "lib", "web", Wanted(guest_path="/root/app/lib")).run(
        guest.open_session, Progress("x", quiet=True)
    )
    assert repos.git(repo / "lib", "show", f"{found.branch}:a") == "in the submodule"
    send(side, guest)
    (guest.home / "side/a").write_text("3")
    found = export(side, "web", Wanted(branch="from-side")).run(
        guest.open_session, Progress("x", quiet=True)
    )
    assert repos.git(repo, "show", "from-side:a") == "3"


def test_a_sparse_checkout(repos: Repos, guest: Guest):
    repo = repos.make({"in/a": "1", "out/b": "2", "top": "3"})
    repos.git(repo, "sparse-checkout", "set", "in")
    send(repo, guest)
    (guest.home / "app/in/a").write_text("changed")
    bring(repo, guest)
    assert repos.git(repo, "diff", "--name-status", "main", "banger/web").split() == ["M", "in/a"]


def test_what_the_user_ignores_everywhere_is_ignored_there(repos: Repos, guest: Guest, tmp_path: Path):
    (tmp_path / "ignore").write_text("*.swp")
    with (tmp_path / "gitconfig").open("a") as file:
        file.write(f"[core]\nexcludesFile = {tmp_path}/ignore\n")
    repo = repos.make({"a": "1"})
    (repo / ".git/info").mkdir(exist_ok=True)
    (repo / ".git/info/exclude").write_text("*.tmp\n")
    (repo / "x.swp").write_text("1")
    send(repo, guest, Options(all_files=True))
    (guest.home / "app/x.tmp").write_text("2")
    assert (guest.home / "app/x.swp").exists()
    assert bring(repo, guest) == Brought()


def test_history_that_was_rewritten_there(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    (repo / "a").write_text("2")
    repos.git(repo, "commit", "-qam", "second")
    send(repo, guest)
    there = guest.home / "app"
    (there / "a").write_text("amended")
    repos.git(there, "commit", "-qa", "--amend", "-m", "amended")
    found = bring(repo, guest)
    assert found.commits == 1
    assert repos.git(repo, "show", "banger/web:a") == "amended"
    repos.git(repo, "fsck", "--strict")


def test_another_repository_here(repos: Repos, guest: Guest):
    send(repos.make({"a": "1"}), guest)
    (guest.home / "app/a").write_text("2")
    other = repos.make({"a": "another"}, "other")
    with pytest.raises(Failure, match="did not come from"):
        bring(other, guest, Wanted(guest_path="/root/app"))
    with pytest.raises(Failure, match="no folder /root/other in the guest"):
        bring(other, guest)
    plain = guest.home / "other"
    plain.mkdir()
    with pytest.raises(Failure, match="is no git repository"):
        bring(other, guest)
    repos.git(guest.home, "init", "-q", "other")
    with pytest.raises(Failure, match="was not taken there"):
        bring(other, guest)
    guest.path = "/nowhere"
    with pytest.raises(Failure, match="no sh"):
        bring(other, guest)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(patch="-", branch="x"), "--patch or --branch"),
        (Wanted(branch="a..b"), "git takes no such name"),
        (Wanted(guest_path="root/app"), "no absolute path"),
        (Wanted(patch="/etc/passwd"), "exists already"),
    ],
)
def test_requests_that_make_no_sense(repos: Repos, wanted: Wanted, said: str):
    with pytest.raises(UsageError) as caught:
        export(repos.make({"a": "1"}), "web", wanted)
    assert said in f"{caught.value} {caught.value.hint}"


def test_ctrl_c(repos: Repos, guest: Guest):
    repo = repos.make({"a": "1"})
    send(repo, guest)
    (guest.home / "app/large").write_bytes(os.urandom(30_000_000))
    main = threading.main_thread().ident
    timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(Interrupted) as caught:
            bring(repo, guest)
    finally:
        timer.join()
    assert caught.value.failure.status == 130

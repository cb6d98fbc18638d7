"""What a workspace consists of: real repositories, nothing made."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.workspace_repos import Repos, fingerprint

from banger.errors import Failure, UsageError
from banger.workspace.options import Options
from banger.workspace.plan import Plan, plan

UNTRACKED = Options(include_untracked=True)


def names(found: Plan) -> list[str]:
    return sorted(entry.name for entry in found.files)


def test_tracked_files_as_they_are_now(repos: Repos):
    """Changed contents, deleted files left out, executable bits and links; nothing untracked or ignored."""
    repo = repos.make(
        {"a.txt": "one", "run.sh": "#!/bin/sh\n", "gone": "x", "sub/b": "two", ".gitignore": "*.log\n"}
    )
    (repo / "a.txt").write_text("changed, and longer")
    (repo / "gone").unlink()
    (repo / "run.sh").chmod(0o755)
    (repo / "sub/link").symlink_to("../a.txt")
    repos.git(repo, "add", "sub/link")
    (repo / "untracked").write_text("u")
    (repo / "x.log").write_text("ignored")
    before = fingerprint(repo)
    found = plan(repo, Options())
    assert names(found) == [".gitignore", "a.txt", "run.sh", "sub/b", "sub/link"]
    by_name = {entry.name: entry for entry in found.files}
    assert (by_name["run.sh"].mode, by_name["a.txt"].mode) == (0o755, 0o644)
    assert by_name["a.txt"].size == 19
    assert by_name["sub/link"].kind == b"2"
    assert found.total_bytes == sum((repo / name).lstat().st_size for name in names(found))
    assert found.guest_path == f"/root/{repo.name}"
    assert (found.branch, found.commit) == ("main", repos.git(repo, "rev-parse", "HEAD").strip())
    assert names(plan(repo, UNTRACKED)) == sorted([*names(found), "untracked"])
    assert names(plan(repo, Options(all_files=True))) == sorted([*names(found), "untracked", "x.log"])
    assert fingerprint(repo) == before


def test_names_of_any_bytes(repos: Repos):
    repo = repos.make({})
    odd = [b"new\nline", b"tab\t", b'quo"te', b"back\\slash", b"latin-\xe9", b"-rf", b" ", b"d\xff/\xfe\n"]
    for name in odd:
        path = repo / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    repos.git(repo, "add", "--all")
    assert sorted(entry.path for entry in plan(repo, Options()).files) == sorted(odd)


def test_a_folder_below_means_all_of_it_and_starts_there(repos: Repos):
    repo = repos.make({"a": "1", "deep/er/b": "2"})
    found = plan(repo / "deep/er", Options())
    assert names(found) == ["a", "deep/er/b"]
    assert found.workdir == f"/root/{repo.name}/deep/er"
    link = repo.parent / "shortcut"
    link.symlink_to(repo / "deep")
    assert plan(link, Options()).workdir == f"/root/{repo.name}/deep"


def test_a_folder_of_which_nothing_is_taken(repos: Repos):
    repo = repos.make({"a": "1"})
    (repo / "later").mkdir()
    (repo / "later/b").write_text("untracked")
    found = plan(repo / "later", Options())
    assert (found.workdir, len(found.warnings)) == (f"/root/{repo.name}", 1)
    assert plan(repo / "later", UNTRACKED).workdir == f"/root/{repo.name}/later"
    repos.git(repo, "add", "later")
    assert plan(repo / "later", Options(from_ref="HEAD")).workdir == f"/root/{repo.name}"


def test_a_tracked_folder_that_became_a_link_is_not_followed(repos: Repos, tmp_path: Path):
    repo = repos.make({"d/secret": "tracked"})
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not yours")
    (repo / "d/secret").unlink()
    (repo / "d").rmdir()
    (repo / "d").symlink_to(outside)
    assert names(plan(repo, Options())) == []
    assert [entry.kind for entry in plan(repo, UNTRACKED).files] == [b"2"]


def test_a_file_that_became_a_folder_and_one_that_became_a_socket(repos: Repos):
    repo = repos.make({"file": "1", "talk": "2"})
    (repo / "file").unlink()
    (repo / "file").mkdir()
    (repo / "file/inner").write_text("3")
    (repo / "talk").unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(repo / "talk"))
    found = plan(repo, Options())
    assert names(found) == []
    assert found.warnings == ("left out: talk is no file but a socket",)
    assert names(plan(repo, UNTRACKED)) == ["file/inner"]


def test_before_the_first_commit(repos: Repos):
    repo = repos.make({"a": "1"}, commit=False)
    found = plan(repo, Options())
    assert (names(found), found.commit, found.branch) == (["a"], "", "main")


def test_a_commit_in_place_of_the_working_tree(repos: Repos):
    repo = repos.make({"a": "old", "b": "1"})
    first = repos.git(repo, "rev-parse", "HEAD").strip()
    (repo / "a").write_text("new, longer")
    repos.git(repo, "rm", "-q", "b")
    repos.git(repo, "commit", "-qam", "second")
    repos.git(repo, "branch", "older", first)
    (repo / "a").write_text("not committed")
    before = fingerprint(repo)
    found = plan(repo, Options(from_ref="HEAD~1"))
    assert (names(found), found.total_bytes, found.commit, found.branch) == (["a", "b"], 4, first, "")
    assert plan(repo, Options(from_ref="older")).branch == "older"
    assert plan(repo, Options(from_ref="older", branch="try/it")).branch == "try/it"
    assert fingerprint(repo) == before


def test_a_sparse_checkout(repos: Repos):
    repo = repos.make({"in/a": "1", "out/b": "2", "top": "3"})
    for flag in ("--no-sparse-index", "--sparse-index"):
        repos.git(repo, "sparse-checkout", "set", flag, "in")
        assert names(plan(repo, UNTRACKED)) == ["in/a", "top"]


def test_a_worktree(repos: Repos):
    repo = repos.make({"a": "1"})
    beside = repo.parent / "beside"
    repos.git(repo, "worktree", "add", "-q", "-b", "other", str(beside))
    (beside / "a").write_text("there")
    found = plan(beside, Options())
    assert (found.name, found.branch, found.total_bytes) == ("beside", "other", 5)


def test_submodules_come_along(repos: Repos):
    inner = repos.make({"i": "inner"}, "inner")
    middle = repos.make({"m": "middle"}, "middle")
    repos.submodule(middle, inner, "deep")
    outer = repos.make({"o": "outer"}, "outer")
    repos.submodule(outer, middle, "lib/mid dle")
    repos.submodule(outer, inner, "empty")
    repos.git(outer, "submodule", "deinit", "-q", "-f", "empty")
    (outer / "lib/mid dle/untracked").write_text("u")
    found = plan(outer, UNTRACKED)
    files = ["o", "lib/mid dle/m", "lib/mid dle/deep/i", "lib/mid dle/untracked", "lib/mid dle/.gitmodules"]
    assert names(found) == sorted([*files, ".gitmodules", "empty"])
    assert found.warnings == ("submodule empty is not checked out here: an empty folder",)


def test_a_submodule_whose_git_folder_is_empty(repos: Repos):
    """git would take the outer repository for it, without an end."""
    inner = repos.make({"i": "inner"}, "inner")
    outer = repos.make({"o": "outer"}, "outer")
    repos.submodule(outer, inner, "lib")
    (outer / "lib/.git").unlink()
    (outer / "lib/.git").mkdir()
    assert names(plan(outer, Options())) == [".gitmodules", "lib", "o"]
    assert names(plan(outer, Options(from_ref="HEAD"))) == [".gitmodules", "lib", "o"]


def test_a_plain_folder(repos: Repos, tmp_path: Path):
    folder = tmp_path / "plain"
    (folder / "sub/empty").mkdir(parents=True)
    (folder / "sub/file").write_text("1")
    (folder / "out").symlink_to("/etc")
    os.mkfifo(folder / "fifo")
    with pytest.raises(Failure, match="not in a git repository") as caught:
        plan(folder, Options())
    assert "--all-files" in caught.value.hint
    found = plan(folder, Options(all_files=True))
    assert names(found) == ["out", "sub", "sub/empty", "sub/file"]
    assert found.warnings == ("left out: fifo is no file but a FIFO",)
    assert found.parts == ()


def test_git_variables_of_the_caller_do_not_lead_elsewhere(repos: Repos, monkeypatch: pytest.MonkeyPatch):
    """A git hook that calls banger has GIT_DIR and GIT_INDEX_FILE set."""
    other = repos.make({"x": "1"}, "other")
    repo = repos.make({"a": "1"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    assert names(plan(repo, Options())) == ["a"]


def test_no_program_of_the_repository_runs(repos: Repos, tmp_path: Path):
    repo = repos.make({"a": "1"})
    trace = tmp_path / "ran"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho $0 >> {trace}\n")
    script.chmod(0o755)
    repos.git(repo, "config", "core.fsmonitor", str(script))
    for name in ("post-index-change", "reference-transaction", "post-checkout"):
        (repo / ".git/hooks").mkdir(exist_ok=True)
        (repo / ".git/hooks" / name).symlink_to(script)
    plan(repo, UNTRACKED)
    plan(repo, Options(from_ref="HEAD"))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(branch="a..b"), "git takes no such name"),
        (Options(branch="-b"), "no such name is possible"),
        (Options(branch="x y"), "git takes no such name"),
        (Options(branch="HEAD"), "git takes no such name"),
        (Options(from_ref="no-such"), "no such commit"),
        (Options(from_ref="-x"), "no such name is possible"),
        (Options(from_ref="HEAD:a"), "no such commit"),
        (Options(from_ref="HEAD", include_untracked=True), "--from takes a commit's files"),
        (Options(from_ref="HEAD", all_files=True), "--from or --all-files"),
    ],
)
def test_options_that_make_no_sense(repos: Repos, options: Options, said: str):
    repo = repos.make({"a": "1"})
    with pytest.raises(UsageError) as caught:
        plan(repo, options)
    assert said in f"{caught.value} {caught.value.hint}"


def _bare(repos: Repos) -> Path:
    repos.git(repos.folder, "init", "-q", "--bare", "bare.git")
    return repos.folder / "bare.git"


def _inside(repos: Repos) -> Path:
    return repos.make({"a": "1"}) / ".git"


def _corrupt_index(repos: Repos) -> Path:
    repo = repos.make({"a": "1"})
    (repo / ".git/index").write_bytes(b"DIRC, but not really")
    return repo


def _broken_head(repos: Repos) -> Path:
    repo = repos.make({"a": "1"})
    (repo / ".git/refs/heads/main").write_text("0123456789" * 4 + "\n")
    return repo


def _foreign(repos: Repos) -> Path:
    repo = repos.make({"a": "1"})
    for path in (repo, repo / ".git"):
        os.chown(path, 12345, 12345)
    return repo


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_bare, "bare repository"),
        (_inside, "git's own folder"),
        (_corrupt_index, "git fsck"),
        (_broken_head, "cannot read the present commit"),
        (lambda repos: repos.folder / "nowhere", "does not exist"),
        (lambda repos: repos.folder / ("n" * 300), "cannot be looked at"),
        (lambda repos: repos.folder / "nu\0l", "cannot be looked at"),
        (lambda repos: repos.make({"a": "1"}) / "a", "is no folder"),
        pytest.param(_foreign, "safe.directory", marks=pytest.mark.root),
    ],
)
def test_what_is_no_workspace(repos: Repos, make: Callable[[Repos], Path], said: str):
    place = make(repos)
    with pytest.raises(Failure) as caught:
        plan(place, Options())
    assert said in f"{caught.value} {caught.value.hint}"


def test_without_git(repos: Repos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    repo = repos.make({"a": "1"})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failure, match="git is not installed"):
        plan(repo, Options())
    (repo / ".git").rename(tmp_path / "away")
    assert names(plan(repo, Options(all_files=True))) == ["a"]


@pytest.mark.root
def test_unreadable_files_are_told_first(repos: Repos, folder: Path):
    """As a user who is not root, in a process of its own."""
    repos = Repos(folder)
    folder.chmod(0o755)
    repo = repos.make({"open": "1", "closed": "2"})
    (repo / "closed").chmod(0)
    for path in [*repo.rglob("*"), repo]:
        os.lchown(path, 65534, 65534)
    script = (
        "from banger.workspace.plan import plan; from banger.workspace.options import Options\n"
        f"plan({str(repo)!r}, Options())"
    )
    done = subprocess.run(
        repos.python("-c", script),
        user=65534,
        group=65534,
        extra_groups=(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "permission denied for closed" in done.stderr, done.stderr

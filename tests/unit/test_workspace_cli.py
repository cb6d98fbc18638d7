"""What `banger vm workspace` says and with which status it ends, as far as no service is needed."""

import json
import sys

import pytest
from tests.unit.workspace_repos import Repos

from banger import cli
from banger.cli import workspace

PREPARE = ("vm", "workspace", "prepare", "web")


def test_dry_run_lists_what_would_be_taken(repos: Repos, capsys: pytest.CaptureFixture[str]):
    """One line a file, whatever its name; the sum on standard error."""
    repo = repos.make({"a": "1", "sub/b": "22", "new\nline": "3", 'qu"ote': "4", '"': "5", "ü": "6"})
    assert cli.main([*PREPARE, str(repo), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ['"\\""', "a", '"new\\nline"', 'qu"ote', "sub/b", "ü"]
    assert err == "6 files, 7 B, to /root/app\n"
    assert cli.main([*PREPARE, str(repo), "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")


def test_dry_run_for_scripts(repos: Repos, capsys: pytest.CaptureFixture[str]):
    repo = repos.make({"a": "1", "l\udcff": "22"})
    (repo / "link").symlink_to("a")
    repos.git(repo, "add", "link")
    assert cli.main([*PREPARE, str(repo), "--dry-run", "--json", "--branch", "try"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "host_path": str(repo), "guest_path": "/root/app", "workdir": "/root/app", "branch": "try",
        "commit": repos.git(repo, "rev-parse", "HEAD").strip(), "count": 3, "total_bytes": 4, "warnings": [],
        "files": [
            {"path": "a", "size": 1, "type": "file", "mode": "0644"},
            {"path": "link", "size": 1, "type": "link", "mode": "0777"},
            {"path": "l\udcff", "size": 2, "type": "file", "mode": "0644"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("vm", "workspace", "prepare", "Web", "."), 2, "no valid VM name"),
        ((*PREPARE, "/usr"), 1, "next: `git init`"),
        ((*PREPARE, "/no/where"), 2, "does not exist"),
        ((*PREPARE, "{repo}", "--from", "HEAD", "--include-untracked"), 2, "--from takes a commit's files"),
        ((*PREPARE, "{repo}", "--branch", ""), 1, ""),
        (("vm", "workspace", "export", "web", "{repo}", "--patch", "-", "--json"), 2, "cannot both be"),
        (
            ("vm", "workspace", "export", "web", "{repo}", "--patch", "-", "--branch", "b"),
            2,
            "makes no branch",
        ),
        (("vm", "workspace", "export", "web", "{repo}", "--max-size", "lots"), 2, "is no size"),
        (("vm", "workspace", "export", "web", "/usr"), 1, "not in a git repository"),
        (("vm", "workspace", "export", "web", "/usr"), 1, "banger vm workspace export web FOLDER"),
    ],
)
def test_wrong_requests(
    repos: Repos,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    *,
    status: int,
    said: str,
):
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    repo = repos.make({"a": "1"})
    assert cli.main([word.format(repo=repo) for word in words]) == status
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True), err


def test_a_patch_does_not_act_on_a_terminal(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
):
    patch = b"+a\x1b]0;title\x07b\x1b[2J\n+\xff\n"
    workspace._print(patch)
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == patch
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    workspace._print(patch)
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == "+ab\n+\ufffd\n".encode()

"""The options of `vm run` and `vm exec`, with a real guest program behind a real shim."""

import time
from pathlib import Path

import pytest

PRINT = ["--", "sh", "-c", 'echo "$A|$B|$C"']


def test_files_of_variables_and_what_wins(lab, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("# ours\nA=1\nB=two words\nC\n")
    second.write_text("B=second\n")
    words = ["vm", "exec", "web", "--env-file", str(first), "--env-file", str(second), "-e", "A=flag"]
    assert lab.run(*words, *PRINT, env={"C": "from here"}).text == "flag|second|from here\n"


def test_a_wrong_line_is_told_with_its_number(lab, tmp_path):
    file = tmp_path / "env"
    file.write_text("A=1\n\nexport B=2\n")
    done = lab.run("vm", "run", "--env-file", str(file), "--", "true")
    assert done.status == 2
    assert "env, line 3: 'export B' is no variable's name" in done.err
    assert "leave out 'export'" in done.err
    assert lab.members() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--timeout", "5"), "write 5s or 5m"),
        (("--timeout", "soon"), "'soon' is no timeout"),
        (("--timeout", "0s"), "no possible timeout"),
        (("--forward", "proxies"), "--forward does not know 'proxies'"),
        (("--detach", "--tty"), "--detach leaves no terminal"),
        (("--detach", "--rm"), "--rm deletes the VM when we leave"),
        (("--env-file", "/nonexistent"), "cannot read /nonexistent"),
        (("--branch", "x"), "--branch says which files of a folder are taken along"),
        (("--from", "HEAD"), "--from says which files of a folder"),
        (("--include-untracked",), "--include-untracked says which files of a folder"),
        (("--all-files",), "--all-files says which files of a folder"),
        (("--dry-run",), "--dry-run says which files of a folder"),
    ],
)
def test_refused_at_once_with_the_reason(lab, words, said):
    done = lab.run("vm", "run", *words, "--", "true")
    assert done.status == 2
    assert said in done.err
    assert lab.members() == []


def test_detach_needs_a_command(lab):
    assert "--detach needs a command" in lab.run("vm", "exec", "web", "--detach").err


def test_a_command_without_dashes(lab, tmp_path):
    done = lab.run("vm", "run", "make", "test")
    assert (done.status, "banger vm run -- make test" in done.err) == (2, True)
    script = tmp_path / "my script.sh"
    script.touch()
    done = lab.run("vm", "run", str(script))
    assert "is no folder" in done.err
    assert f"banger vm run -- '{script}'" in done.err
    assert lab.members() == []


def test_a_dry_run_asks_nobody(lab, tmp_path):
    (tmp_path / "a file").write_text("x" * 1000)
    done = lab.run("vm", "run", str(tmp_path), "--all-files", "--dry-run")
    assert (done.status, done.text) == (0, "a file\n")
    assert lab.members() == []


def test_a_command_that_ends_in_time(lab):
    assert lab.run("vm", "exec", "web", "--timeout", "30s", "--", "sh", "-c", "exit 3").status == 3


def test_a_command_that_does_not_end_in_time(lab):
    script = "trap 'echo bye; exit 0' TERM; echo on; sleep 60 & wait"
    done = lab.run("vm", "exec", "web", "--timeout", "0.5s", "--", "sh", "-c", script)
    assert (done.status, done.text) == (124, "on\nbye\n")
    assert "ran longer than 0.5 s" in done.err
    assert done.took_s < 8
    assert (
        lab.run("vm", "exec", "web", "--timeout", "0.2s", "--json", "--", "sleep", "60").error["error"]
        == "TimedOut"
    )


def test_a_throw_away_vm_is_deleted_after_the_timeout(lab):
    done = lab.run("vm", "run", "--rm", "--timeout", "0.2s", "--", "sleep", "60")
    assert done.status == 124
    assert lab.members()[-2:] == ["Delete", "lifeline closed"]


def test_a_shell_in_a_terminal_is_left_when_its_time_is_over(lab, terminal):
    """An interactive shell takes no notice of SIGTERM: it gets SIGKILL."""
    shell = terminal(
        "vm", "exec", "web", "--timeout", "1s", "--", "sh", "-c", "trap '' TERM; echo on; cat; cat"
    )
    before = shell.mode()
    shell.expect("on")
    assert shell.mode() != before  # raw
    assert shell.wait(20) == 124
    assert shell.mode() == before


@pytest.fixture
def home(tmp_path):
    """A home in the guest, which shares our file system but for /run."""
    return ["-e", f"HOME={tmp_path}"], tmp_path


def settled(path: Path) -> str:
    deadline = time.monotonic() + 15
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
    return path.read_text()


def test_a_detached_command_goes_on_without_us(lab, home):
    env, folder = home
    script = "echo out; echo err >&2; cat; sleep 1; echo late; exit 3"
    done = lab.run(
        "vm", "exec", "web", *env, "--detach", "--json", "--", "sh", "-c", script, stdin=b"not read"
    )
    assert done.status == 0
    assert done.json["vm"] == "web"
    log, status = Path(done.json["log"]), Path(done.json["status_file"])
    assert log.parent == folder / ".cache/banger"
    assert not status.exists()
    assert Path(f"/proc/{done.json['pid']}").exists()
    assert settled(status) == "3\n"
    assert log.read_text() == "out\nerr\nlate\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_is_told_of_a_detached_command(lab, home):
    env, folder = home
    done = lab.run("vm", "run", "--name", "web", *env, "-d", "--", "sh", "-c", "exit 0")
    assert done.text.startswith(f"web:{folder}/.cache/banger/run-")
    assert "banger vm exec web -- tail -f" in done.err
    assert "Delete" not in lab.members()
    settled(Path(done.text.strip()[4:].removesuffix(".log") + ".status"))


def test_a_detached_command_that_cannot_start(lab, home):
    env, folder = home
    done = lab.run("vm", "exec", "web", *env, "--detach", "--", "no-such-program")
    assert done.status == 127
    assert "no-such-program: not found" in done.err
    assert list((folder / ".cache/banger").iterdir()) == []


def test_a_detached_command_of_a_user_without_a_home(lab, tmp_path):
    words = ["-e", "HOME=/proc/none", "-e", f"TMPDIR={tmp_path}", "--detach", "--json"]
    done = lab.run("vm", "exec", "web", *words, "--", "true")
    assert Path(done.json["log"]).parent == tmp_path
    assert settled(Path(done.json["status_file"])) == "0\n"


def test_a_detached_command_has_its_time_too(lab, home):
    env, _folder = home
    done = lab.run("vm", "exec", "web", *env, "-d", "--timeout", "1s", "--json", "--", "sleep", "60")
    assert settled(Path(done.json["status_file"])) == "124\n"


def test_our_surroundings_reach_the_command(lab, tmp_path):
    """And what is switched off does not; a variable given by name wins."""
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n")
    (tmp_path / "gitconfig").write_text("[user]\n\tname = Ann\n\temail = ann@example.org\n")
    env = {
        "https_proxy": "http://proxy.example:3128", "http_proxy": "http://localhost:1", "TZ": "Asia/Tokyo",
        "SSL_CERT_FILE": str(ca), "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
    }  # fmt: skip
    script = (
        'echo "$HTTPS_PROXY|$http_proxy|$TZ|$TERM"; cat "$CURL_CA_BUNDLE"; cd /; git var GIT_COMMITTER_IDENT'
    )
    done = lab.run(
        "vm", "exec", "web", "-e", "GIT_CONFIG_GLOBAL=/dev/null", "--", "sh", "-c", script, env=env,
        cwd=tmp_path,  # outside any repository, which may name somebody else
    )  # fmt: skip
    lines = done.text.splitlines()
    assert lines[0] == "http://proxy.example:3128||Asia/Tokyo|"
    assert lines[1:4] == ca.read_text().splitlines()
    assert lines[4].startswith("Ann <ann@example.org>")
    assert "http_proxy is not passed on: localhost is this machine's loopback" in done.err

    script = 'echo "$HTTPS_PROXY|$TZ|$CURL_CA_BUNDLE|$GIT_CONFIG_SYSTEM"'
    words = ["--", "sh", "-c", script]
    only = lab.run("vm", "exec", "web", "--forward", "timezone", "-e", "TZ=Asia/Kolkata", *words, env=env)
    assert (only.text, only.err) == ("|Asia/Kolkata||\n", "")
    without = lab.run("vm", "exec", "web", "--forward", "no-ca,no-git,no-proxy", *words, env=env)
    assert (without.text, without.err) == ("|Asia/Tokyo||\n", "")
    assert lab.run("vm", "exec", "web", "--forward", "none", *words, env=env).text == "|||\n"
    assert lab.members().count("Exec") == 2 + 3


def test_the_terminals_kind(lab, terminal):
    script = 'echo "<$TERM|$COLORTERM>"'
    shell = terminal(
        "vm", "exec", "web", "--", "sh", "-c", script, TERM="xterm-256color", COLORTERM="truecolor"
    )
    shell.expect("<xterm-256color|truecolor>")
    assert shell.wait() == 0
    shell = terminal("vm", "exec", "web", "--", "sh", "-c", script, TERM="never-heard-of")
    shell.expect("<xterm-256color|>")
    assert shell.wait() == 0

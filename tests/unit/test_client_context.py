"""What of the user's surroundings reaches a guest, and what is left at home."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from banger import context, transfer
from banger.config import Forward
from banger.context import certificates, git, guest, proxy, zone
from banger.context.gather import Context, gather
from banger.messages import Command

ONE = "-----BEGIN CERTIFICATE-----\nQUJD\nREVG\n-----END CERTIFICATE-----"
TWO = "-----BEGIN CERTIFICATE-----\nR0hJ\n-----END CERTIFICATE-----"
KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"
NOTHING = Forward(proxy=False, ca=False, term=False, timezone=False, git=False)


def test_proxies_in_both_spellings_whichever_is_set() -> None:
    found, remarks = proxy.variables(
        {
            "https_proxy": "http://proxy:3128",
            "ALL_PROXY": "socks5://10.0.0.1:1080",
            "NO_PROXY": "a,.b",
            "x": "y",
        }
    )
    assert found == {
        "https_proxy": "http://proxy:3128",
        "HTTPS_PROXY": "http://proxy:3128",
        "all_proxy": "socks5://10.0.0.1:1080",
        "ALL_PROXY": "socks5://10.0.0.1:1080",
        "no_proxy": "a,.b",
        "NO_PROXY": "a,.b",
    }
    assert remarks == ()
    assert proxy.variables({"no_proxy": "localhost"}) == ({}, ())  # exceptions from no rule


@pytest.mark.parametrize(
    "value",
    [
        "http://127.0.0.1:3128", "127.9.9.9:1", "http://localhost", "http://LOCALHOST.:80", "http://[::1]:80",
        "http://u:p@[::ffff:127.0.0.1]:80", "http://0.0.0.0:80", "socks5h://a.localhost:9050",
    ],
)  # fmt: skip
def test_a_proxy_on_loopback_is_told_and_left_out(value: str) -> None:
    found, remarks = proxy.variables({"http_proxy": value, "no_proxy": "x"})
    assert found == {}
    assert len(remarks) == 1
    assert "http_proxy is not passed on" in remarks[0]
    assert "u:p" not in remarks[0]  # no password on a screen


@pytest.mark.parametrize(
    "value", ["http://10.0.0.1:3128", "proxy.example:80", "http://[2001:db8::1]:80", "http://[x"]
)
def test_other_proxies_are_passed_on(value: str) -> None:
    assert proxy.variables({"http_proxy": value})[0]["HTTP_PROXY"] == value


@pytest.mark.parametrize(
    ("tz", "name"),
    [
        ("Europe/Berlin", "Europe/Berlin"), (":America/New_York", "America/New_York"), ("UTC", ""), ("Etc/UTC", ""),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "CET-1CEST,M3.5.0,M10.5.0/3"), ("<+03>-3", "<+03>-3"),
        (":/usr/share/zoneinfo/Asia/Tokyo", "Asia/Tokyo"), ("/usr/share/zoneinfo/right/Asia/Tokyo", "Asia/Tokyo"),
        ("/home/me/mine.tz", ""), ("../../etc/passwd", ""), ("a b", ""), ("x\x1b[31m", ""),
    ],
)  # fmt: skip
def test_time_zone_of_the_variable(tz: str, name: str) -> None:
    assert zone.name({"TZ": tz}, Path("/nonexistent")) == name


def test_time_zone_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    assert zone.name({}, tmp_path) == ""
    (tmp_path / "etc/timezone").write_text("Europe/Paris\n")
    assert zone.name({}, tmp_path) == "Europe/Paris"
    (tmp_path / "etc/localtime").symlink_to("../usr/share/zoneinfo/Asia/Kolkata")
    assert zone.name({}, tmp_path) == "Asia/Kolkata"
    assert zone.name({"TZ": ""}, tmp_path) == "Asia/Kolkata"


def test_certificates_of_variables_and_no_keys(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text(f"# ours\n{ONE}\n{KEY}\n")
    (tmp_path / "extra").write_text(f"{TWO}\r\n{ONE}\n")
    ours = {"SSL_CERT_FILE": str(tmp_path / "bundle"), "NODE_EXTRA_CA_CERTS": str(tmp_path / "extra")}
    assert certificates.bundle(ours, tmp_path) == f"{ONE}\n{TWO}\n"
    assert certificates.bundle({"SSL_CERT_FILE": "/nonexistent"}, tmp_path) == ""


def test_certificates_that_only_add_come_with_the_machines(tmp_path: Path) -> None:
    (tmp_path / "etc/ssl/certs").mkdir(parents=True)
    (tmp_path / "etc/ssl/certs/ca-certificates.crt").write_text(f"{ONE}\n")
    (tmp_path / "extra").write_text(TWO)
    assert certificates.bundle({}, tmp_path) == ""  # as every system's
    assert (
        certificates.bundle({"NODE_EXTRA_CA_CERTS": str(tmp_path / "extra")}, tmp_path) == f"{ONE}\n{TWO}\n"
    )
    (tmp_path / "usr/local/share/ca-certificates").mkdir(parents=True)
    (tmp_path / "usr/local/share/ca-certificates/corp.crt").write_text(TWO)
    assert certificates.bundle({}, tmp_path) == f"{ONE}\n"


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose name is in a file that their gitconfig includes."""
    (tmp_path / "included").write_text('[user]\n\tname = "Ann \\"A\\" O\'Hara \\\\ Ünü"\n')
    (tmp_path / "gitconfig").write_text("[include]\n\tpath = included\n[user]\n\temail = ann@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in git.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_git_identity_is_the_weakest(identity: Path) -> None:
    """What is written for the guest, read by git itself; a repository's own settings win."""
    system = identity / "system"
    system.write_text(git.config(str(identity)))
    repo = identity / "repo"
    env = {"PATH": os.environ["PATH"], "HOME": str(identity / "home"), "GIT_CONFIG_SYSTEM": str(system)}
    subprocess.run(["git", "init", "-q", repo], env=env, check=True)

    def author() -> str:
        words = ["git", "-C", repo, "var", "GIT_AUTHOR_IDENT"]
        return subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout

    assert author().startswith('Ann "A" O\'Hara \\ Ünü <ann@example.org>')
    subprocess.run(["git", "-C", repo, "config", "user.email", "repo@example.org"], env=env, check=True)
    assert author().startswith('Ann "A" O\'Hara \\ Ünü <repo@example.org>')


def test_git_identity_of_the_repository_taken_along(identity: Path) -> None:
    repo = identity / "repo"
    subprocess.run(["git", "init", "-q", repo], check=True)
    subprocess.run(["git", "-C", repo, "config", "user.email", "work@example.org"], check=True)
    assert "work@example.org" in git.config(str(repo))


def test_no_identity_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    assert git.config(str(tmp_path)) == ""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert git.config(str(tmp_path)) == ""


def test_all_together_and_each_alone(identity: Path) -> None:
    (identity / "ca").write_text(ONE)
    ours = {
        "http_proxy": "http://p:1", "TZ": "Asia/Tokyo", "TERM": "xterm", "COLORTERM": "truecolor",
        "SSL_CERT_FILE": str(identity / "ca"), "GIT_AUTHOR_NAME": "Bo", "SECRET": "x",
    }  # fmt: skip
    root = identity

    def names(wishes: Forward, *, tty: bool = True) -> set[str]:
        found = gather(wishes, tty=tty, folder=str(identity), ours=ours, root=root)
        return set(found.env)

    proxies, terminal = {"http_proxy", "HTTP_PROXY"}, {"TERM", "COLORTERM"}
    authorities, who = set(certificates.VARIABLES), {"GIT_AUTHOR_NAME", git.CONFIG}
    assert names(Forward()) == proxies | terminal | authorities | who | {"TZ"}
    assert names(Forward(), tty=False) == proxies | authorities | who | {"TZ"}
    assert names(NOTHING) == set()
    for one, expected in {
        "proxy": proxies, "ca": authorities, "term": terminal, "timezone": {"TZ"}, "git": who,
    }.items():  # fmt: skip
        flags = {name: name == one for name in context.ALL}
        assert names(Forward(**flags)) == expected


Runs = list[tuple[Command, bytes]]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A guest that is a shell on this machine, with paths of the guest below `tmp_path`."""
    runs: Runs = []

    def run(
        fd: int, command: Command, *, source: Iterable[bytes] = (), sink: Callable[[memoryview], object]
    ) -> transfer.Outcome:
        assert fd == 5
        script = b"".join(source).replace(b"/run/banger", bytes(tmp_path / "run"))
        runs.append((command, script))
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(command.argv, input=script, env=env, capture_output=True, check=False)
        sink(memoryview(done.stdout))
        return transfer.Outcome(done.returncode, done.stderr.decode())

    monkeypatch.setattr(guest.transfer, "run", run)
    return runs


def test_files_reach_the_guest_with_their_variables(shell: Runs, tmp_path: Path) -> None:
    text = "it's $HOME `id` \\n\n"
    found = Context({"A": "b", "SSL_CERT_FILE": "/run/banger/ca-1.pem"}, {"/run/banger/ca-1.pem": text})
    for _ in range(2):  # the second time it is there
        assert context.bring(lambda: 5, found) == ("A=b", "SSL_CERT_FILE=/run/banger/ca-1.pem")
    assert (tmp_path / "run/ca-1.pem").read_text() == text
    assert (tmp_path / "run/ca-1.pem").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ca-1.pem"]


def test_a_guest_that_takes_no_file_goes_without_its_variables(shell: Runs, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    found = Context({"A": "b", "X": "/run/banger/ca-1.pem"}, {"/run/banger/ca-1.pem": "text\n"})
    assert context.bring(lambda: 5, found) == ("A=b",)


def test_nothing_to_bring_needs_no_session(shell: Runs) -> None:
    assert context.bring(lambda: 5, Context({"TERM": "xterm-256color"})) == ("TERM=xterm-256color",)
    assert shell == []


def test_a_terminal_that_the_guest_does_not_know(shell: Runs, tmp_path: Path) -> None:
    found = Context({"TERM": "x'term-kitty"})
    assert context.bring(lambda: 5, found) == ("TERM=xterm-256color",)
    (tmp_path / ".terminfo/x").mkdir(parents=True)
    (tmp_path / ".terminfo/x/x'term-kitty").touch()
    assert context.bring(lambda: 5, found) == ("TERM=x'term-kitty",)

"""The user's ssh key: made once, checked as ssh checks it, and only its public half is asked for."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from banger.config import Settings
from banger.errors import Failure
from banger.ssh import keys

TOP = Path(__file__).parents[2]
pytestmark = pytest.mark.needs("ssh-keygen", "ssh-agent", "ssh-add")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return folder


def keygen(*words: object) -> str:
    done = subprocess.run(
        ["ssh-keygen", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def made(path: Path, *options: object, passphrase: str = "") -> Path:
    keygen("-q", "-N", passphrase, "-C", "me@here", "-f", path, *(options or ("-t", "ed25519")))
    return path


def refusal(path: Path) -> Failure:
    with pytest.raises(Failure) as caught:
        keys.current(Settings(ssh_key_path=path))
    return caught.value


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# The key that is made


def test_a_key_is_made_for_its_owner_alone(home: Path) -> None:
    key = keys.current(Settings())
    folder = home / ".local/state/banger/ssh"
    assert key.private == folder / "id_ed25519"
    assert (mode(folder), mode(key.private)) == (0o700, 0o600)
    assert keygen("-y", "-f", key.private).split()[:2] == key.public.split()[:2]
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "id_ed25519", "id_ed25519.pub", "identity", "identity.pub",
    ]  # fmt: skip
    assert keys.current(Settings()) == key


def test_umask_does_not_open_it(home: Path) -> None:
    before = os.umask(0)
    try:
        key = keys.current(Settings())
    finally:
        os.umask(before)
    assert mode(key.private) == 0o600
    assert mode(key.private.parent) == 0o700
    assert not mode(home / ".local/state") & 0o022


def test_clients_at_once_agree(home: Path) -> None:
    script = "from banger.config import Settings; from banger.ssh import keys; print(keys.current(Settings()).public)"
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(TOP / "client")}
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    said = {process.communicate(timeout=30)[0] for process in running}
    assert [process.returncode for process in running] == [0] * 6
    assert len(said) == 1
    assert said == {(home / ".local/state/banger/ssh/id_ed25519.pub").read_text()}


def test_the_public_half_comes_back(home: Path) -> None:
    key = keys.current(Settings())
    key.private.with_suffix(".pub").unlink()
    assert keys.same(keys.current(Settings()).public) == keys.same(key.public)
    assert key.private.with_suffix(".pub").exists()


def test_what_a_crash_left_is_no_hindrance(home: Path) -> None:
    folder = keys.own_folder()
    for name in (".id_ed25519.banger", ".id_ed25519.pub.banger", ".identity.banger"):
        (folder / name).write_text("half")
    keys.current(Settings())
    assert not list(folder.glob(".*"))


def test_a_folder_that_others_may_enter_is_refused(home: Path) -> None:
    folder = keys.own_folder()
    folder.chmod(0o755)
    with pytest.raises(Failure) as caught:
        keys.current(Settings())
    assert caught.value.hint == f"chmod 700 {folder}"
    assert not list(folder.iterdir())


def test_state_home_is_followed_if_absolute(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert keys.current(Settings()).private == tmp_path / "state/banger/ssh/id_ed25519"
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert keys.current(Settings()).private == home / ".local/state/banger/ssh/id_ed25519"


def test_a_home_that_cannot_be_written_is_said(home: Path) -> None:
    (home / ".local").write_text("a file")
    with pytest.raises(Failure, match=r"~/.local is no folder"):
        keys.current(Settings())


# A key of the user's own


@pytest.mark.parametrize("kind", [("ed25519",), ("rsa", "-b", "2048"), ("ecdsa", "-b", "384")])
def test_keys_of_all_kinds(home: Path, kind: tuple[str, ...]) -> None:
    path = made(home / "mine", "-t", *kind)
    key = keys.current(Settings(ssh_key_path=path))
    assert key == keys.Key(path, path.with_suffix(".pub").read_text().strip())
    link = keys.identity_link()
    assert (link.readlink(), link.with_suffix(".pub").readlink()) == (path, path.with_suffix(".pub"))
    path.with_suffix(".pub").unlink()
    assert keys.same(keys.current(Settings(ssh_key_path=path)).public) == keys.same(key.public)


def test_another_key_is_linked_from_then_on(home: Path) -> None:
    keys.current(Settings())
    path = made(home / "mine")
    keys.current(Settings(ssh_key_path=path))
    assert keys.identity_link().readlink() == path


def test_an_encrypted_key_needs_its_public_file_alone(home: Path) -> None:
    path = made(home / "locked", passphrase="a secret")
    assert keys.current(Settings(ssh_key_path=path)).private == path
    path.with_suffix(".pub").unlink()
    failure = refusal(path)
    assert failure.code == "NoPublicKey"
    assert "encrypted" in failure.why
    assert failure.hint == f"ssh-keygen -y -f {path} > {path}.pub"


def test_an_encrypted_key_of_the_old_format(home: Path) -> None:
    path = made(home / "old", "-t", "rsa", "-b", "2048", "-m", "PEM", passphrase="a secret")
    assert keys.current(Settings(ssh_key_path=path)).private == path
    path.with_suffix(".pub").unlink()
    assert "encrypted" in refusal(path).why


@pytest.mark.parametrize("suffix", ["", ".pub"])
def test_a_key_that_an_agent_alone_has(home: Path, suffix: str) -> None:
    path = made(home / "agent")
    path.unlink()
    key = keys.current(Settings(ssh_key_path=home / f"agent{suffix}"))
    assert key.private == path
    assert key.identity == keys.identity_link()
    link = keys.identity_link()
    # ssh takes the public half from beside the name it is given, and the agent for the rest.
    assert keygen("-l", "-f", link.with_suffix(".pub")) == keygen("-l", "-f", home / "agent.pub")


def test_a_path_to_the_public_file_means_the_key(home: Path) -> None:
    path = made(home / "mine")
    assert keys.current(Settings(ssh_key_path=home / "mine.pub")).private == path


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_may_read_is_refused_as_ssh_does(home: Path, bits: int) -> None:
    path = made(home / "my key")
    path.chmod(bits)
    failure = refusal(path)
    assert f"{bits:04o}" in failure.why
    assert failure.hint == f"chmod 600 '{path}'"
    subprocess.run(failure.hint, shell=True, check=True)
    assert keys.current(Settings(ssh_key_path=path)).private == path


@pytest.mark.root
def test_a_key_of_another_user(home: Path) -> None:
    """ssh does not mind its mode; we mind only if it cannot be read."""
    path = made(home / "theirs")
    path.chmod(0o640)
    os.chown(path, 60_000, 60_000)
    assert keys.current(Settings(ssh_key_path=path)).private == path


def test_no_such_key(home: Path) -> None:
    failure = refusal(home / "none")
    assert failure.code == "NoKey"
    assert f"ssh-keygen -t ed25519 -f {home}/none" in failure.hint


def test_what_is_no_key(home: Path) -> None:
    (home / "folder").mkdir()
    assert "no file" in str(refusal(home / "folder"))
    os.mkfifo(home / "fifo", 0o600)
    assert "no file" in str(refusal(home / "fifo"))
    (home / "text").write_text("hello")
    (home / "text").chmod(0o600)
    assert refusal(home / "text").code == "NoPublicKey"
    for content in (
        "",
        "# nothing",
        "hello",
        "ssh-ed25519",
        "ssh-ed25519 %%%",
        "ssh-ed25519 AAAA",
        "ssh-dss AAAAB3NzaC1kc3M=",
    ):
        (home / "text.pub").write_text(content)
        assert refusal(home / "text").code == "BadKey", content


def test_a_certificate_is_told_apart(home: Path) -> None:
    made(home / "ca")
    path = made(home / "mine")
    keygen("-q", "-s", home / "ca", "-I", "me", path.with_suffix(".pub"))
    (home / "cert.pub").write_bytes((home / "mine-cert.pub").read_bytes())
    assert "certificate" in str(refusal(home / "cert"))


def test_a_comment_is_kept_if_it_is_harmless(home: Path) -> None:
    path = made(home / "mine")
    kind, data, _comment = path.with_suffix(".pub").read_text().split()
    for comment, kept in (
        ("me at home", " me at home"),
        ("mé", ""),
        ("a\x1b[2J", ""),
        ("x" * 101, ""),
        ("", ""),
    ):
        path.with_suffix(".pub").write_text(f"{kind} {data} {comment}\n")
        assert keys.current(Settings(ssh_key_path=path)).public == f"{kind} {data}{kept}"


def test_links_are_changed_at_once(home: Path) -> None:
    """Whoever reads the link meanwhile finds one key or the other."""
    first, second = made(home / "first"), made(home / "second")
    keys.current(Settings(ssh_key_path=first))
    ends = threading.Event()

    def change() -> None:
        while not ends.is_set():
            for path in (first, second):
                keys.current(Settings(ssh_key_path=path))

    changer = threading.Thread(target=change)
    changer.start()
    try:
        seen = {keys.identity_link().readlink() for _ in range(3000)}
    finally:
        ends.set()
        changer.join()
    assert seen <= {first, second}

"""What a seed makes of a machine's files, in roots of every kind: Debian's, a bare one, one full of links."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bangerd.model.seed import Seed

pytestmark = pytest.mark.root

SEED = Seed(
    hostname="web",
    address="172.16.0.5/24",
    gateway="172.16.0.1",
    nameservers=("172.16.0.1", "9.9.9.9"),
    authorized_keys=("ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"),
    files=(("/etc/ssh/ssh_host_ed25519_key", 0o600, b"secret\0key"), ("/opt/a/b/empty", 0o644, b"")),
    init="/sbin/init",
)
KEYS = "# banger: begin\nssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n# banger: end\n"

Apply = Callable[..., list[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def apply(native: Path, root: Path, tmp_path: Path) -> Apply:
    """Applies seeds to the root and returns the warnings."""

    def run(*seeds: Seed) -> list[str]:
        files = []
        for number, seed in enumerate(seeds):
            file = tmp_path / f"seed{number}"
            file.write_bytes(seed.encode())
            files.append(file)
        done = subprocess.run(
            [native / "configure_root", root, *files],
            env={"ASAN_OPTIONS": "detect_leaks=0"},  # that would need a /proc in the root
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert lines.pop() == f"hostname: {seeds[-1].hostname}"
        return lines

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_root_without_anything(root: Path, apply: Apply) -> None:
    assert apply(SEED) == []
    assert (root / "etc/hostname").read_text() == "web\n"
    assert (root / "etc/hosts").read_text() == (
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
        "# banger: begin\n127.0.1.1 web\n# banger: end\n"
    )
    assert (root / "etc/resolv.conf").read_text() == (
        "# Written by banger at each boot.\nnameserver 172.16.0.1\nnameserver 9.9.9.9\nsearch vm\n"
    )
    assert (root / "root/.ssh/authorized_keys").read_text() == KEYS
    assert (mode(root / "root"), mode(root / "root/.ssh")) == (0o700, 0o700)
    assert mode(root / "root/.ssh/authorized_keys") == 0o600
    key = root / "etc/ssh/ssh_host_ed25519_key"
    assert (key.read_bytes(), mode(key), mode(key.parent)) == (b"secret\0key", 0o600, 0o755)
    assert (root / "opt/a/b/empty").read_bytes() == b""
    network = (root / "run/systemd/network/00-banger.network").read_text()
    assert "Address=172.16.0.5/24\n" in network
    assert "Gateway=172.16.0.1\nDNS=172.16.0.1\nDNS=9.9.9.9\n" in network
    assert (
        "unmanaged-devices=interface-name:eth0"
        in (root / "run/NetworkManager/conf.d/00-banger.conf").read_text()
    )
    # A folder of this name says that systemd runs here.
    assert not (root / "run/systemd/system").exists()


def test_twice_is_as_good_as_once_and_writes_nothing(root: Path, apply: Apply) -> None:
    apply(SEED)
    before = {path: path.stat().st_ino for path in root.rglob("*") if path.is_file()}
    assert apply(SEED, SEED) == []
    assert {path: path.stat().st_ino for path in root.rglob("*") if path.is_file()} == before


def test_what_the_user_wrote_stays(root: Path, apply: Apply) -> None:
    (root / "etc").mkdir()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n10.0.0.1 mine")  # no newline at the end
    ssh = root / "root/.ssh"
    ssh.mkdir(parents=True, mode=0o700)
    (ssh / "authorized_keys").write_text("ssh-rsa CCCC own\n")
    (ssh / "authorized_keys").chmod(0o644)
    apply(SEED)
    assert (root / "etc/hosts").read_text() == (
        "127.0.0.1 localhost\n10.0.0.1 mine\n# banger: begin\n127.0.1.1 web\n# banger: end\n"
    )
    assert (ssh / "authorized_keys").read_text() == "ssh-rsa CCCC own\n" + KEYS
    assert mode(ssh / "authorized_keys") == 0o644
    with (ssh / "authorized_keys").open("a") as file:
        file.write("ssh-rsa DDDD later\n")
    apply(Seed(hostname="other", authorized_keys=("ssh-ed25519 EEEE new",)))
    assert (ssh / "authorized_keys").read_text() == (
        "ssh-rsa CCCC own\nssh-rsa DDDD later\n# banger: begin\nssh-ed25519 EEEE new\n# banger: end\n"
    )
    assert "127.0.1.1 other\n" in (root / "etc/hosts").read_text()
    assert "web" not in (root / "etc/hosts").read_text()
    apply(Seed(hostname="other"))
    assert (ssh / "authorized_keys").read_text() == "ssh-rsa CCCC own\nssh-rsa DDDD later\n"


def test_links_are_replaced_and_not_followed(root: Path, apply: Apply, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    inside = root / "run/systemd/resolve/stub-resolv.conf"
    inside.parent.mkdir(parents=True)
    inside.write_text("stub")
    (root / "etc").mkdir()
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "etc/hostname").symlink_to(victim)
    (root / "etc/hosts").symlink_to("/nowhere")
    assert apply(SEED) == []
    for name in ("resolv.conf", "hostname", "hosts"):
        assert not (root / "etc" / name).is_symlink()
    assert (inside.read_text(), victim.read_text()) == ("stub", "untouched")


def test_what_cannot_be_written_is_warned_of(root: Path, apply: Apply) -> None:
    (root / "etc/hostname").mkdir(parents=True)
    (root / "root").write_text("not a folder")
    warnings = apply(SEED)
    assert "warning: /etc/hostname: Is a directory" in warnings
    assert "warning: /root/.ssh/authorized_keys: Not a directory" in warnings
    assert (root / "etc/resolv.conf").exists()


def test_a_special_file_in_the_way_does_not_hold_the_boot(root: Path, apply: Apply) -> None:
    (root / "etc").mkdir()
    os.mkfifo(root / "etc/hosts")
    assert apply(SEED) == []
    assert (root / "etc/hosts").is_file()


def test_roots_home_is_where_passwd_says(root: Path, apply: Apply) -> None:
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("broken line\n\nroot:x:0:0:root:/home/admin:/bin/sh\n")
    apply(SEED)
    assert (root / "home/admin/.ssh/authorized_keys").read_text() == KEYS
    assert not (root / "root").exists()


def test_a_machine_without_network(root: Path, apply: Apply) -> None:
    assert apply(Seed(hostname="web")) == []
    assert not (root / "etc/resolv.conf").exists()
    assert not (root / "run/systemd/network/00-banger.network").exists()
    assert not (root / "root").exists()


def test_images_with_other_network_managers(root: Path, apply: Apply) -> None:
    for folder in ("etc/network", "etc/cloud/cloud.cfg.d"):
        (root / folder).mkdir(parents=True)
    (root / "etc/network/interfaces").write_text("auto eth0\niface eth0 inet dhcp\n")
    assert apply(SEED) == []
    # Only mounted over, in the machine's life; the file itself stays.
    assert (root / "etc/network/interfaces").read_text() == "auto eth0\niface eth0 inet dhcp\n"
    assert "iface eth0 inet manual" in (root / "run/banger/interfaces").read_text()
    assert "config: disabled" in (root / "etc/cloud/cloud.cfg.d/99-banger.cfg").read_text()


def test_systemd_keeps_the_modules_mounted(root: Path, apply: Apply) -> None:
    release = os.uname().release
    (root / "usr/lib/systemd").mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").touch()
    (root / f"usr/lib/modules/{release}").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/sbin").mkdir()
    (root / "sbin").symlink_to("usr/sbin")
    (root / "usr/sbin/init").symlink_to("/lib/systemd/systemd")
    assert apply(SEED) == []
    unit = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", f"/usr/lib/modules/{release}"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    drop_in = root / f"run/systemd/system/{unit}.d/banger.conf"
    assert drop_in.read_text() == "[Unit]\nDefaultDependencies=no\n"

"""Where packages come from: Debian's archive as the host's apt knows it, and nobody else's."""

import subprocess
from pathlib import Path

import pytest

from bangerd.host import mirror
from bangerd.host.mirror import DEFAULT, DEFAULT_SECURITY, find_mirror, from_addresses, from_indexes
from bangerd.model.errors import HostNotReady, InvalidSpec


def test_debians_own_among_others() -> None:
    said = """
Debian main bookworm http://ftp.example.org/debian/
Debian contrib bookworm http://contrib.example.org/debian/
Debian main bookworm-updates http://updates.example.org/debian/
Debian main bookworm-security https://sec.example.org/debian-security/
Docker stable bookworm https://download.docker.com/linux/debian/
Tailscale main bookworm https://pkgs.tailscale.com/stable/debian/
"""
    assert from_indexes(said) == ("http://ftp.example.org/debian", "https://sec.example.org/debian-security")


@pytest.mark.parametrize(
    "said",
    ["", "\n", "main bookworm http://x/debian/", "Ubuntu main jammy http://archive.ubuntu.com/ubuntu/",
     "Debian main bookworm file:/srv/debian/", "Debian main bookworm cdrom://x/", "Debian main bookworm https://user:secret@mirror/debian/"],
)  # fmt: skip
def test_nothing_of_debians(said: str) -> None:
    assert from_indexes(said) == ("", "")


def test_addresses_like_debians() -> None:
    said = """\
'http://deb.debian.org/debian/dists/trixie/InRelease' deb.debian.org_debian_dists_trixie_InRelease 0
'http://deb.debian.org/debian/dists/trixie-updates/InRelease' x 0
'https://download.docker.com/linux/debian/dists/trixie/main/binary-amd64/Packages.xz' x 0
'https://pkgs.example.com/stable/dists/trixie/InRelease' x 0
'http://security.debian.org/debian-security/dists/trixie-security/InRelease' x 0
"""
    assert from_addresses(said) == (
        "http://deb.debian.org/debian",
        "http://security.debian.org/debian-security",
    )
    snapshot = "'http://snapshot.debian.org/archive/debian/20250520T000000Z/dists/bookworm/InRelease' x 0"
    assert from_addresses(snapshot) == ("http://snapshot.debian.org/archive/debian/20250520T000000Z", "")


@pytest.mark.needs("apt-get")
def test_apt_prints_addresses_in_that_form(tmp_path: Path) -> None:
    """On a machine whose apt has never fetched an index."""
    (tmp_path / "lists/partial").mkdir(parents=True)
    (tmp_path / "sources.list").write_text(
        "deb http://deb.debian.org/debian bookworm main\n"
        "deb http://deb.debian.org/debian-security bookworm-security main\n"
    )
    options = {
        "Dir::State::Lists": tmp_path / "lists", "Dir::Etc::SourceList": tmp_path / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null", "Dir::Cache": tmp_path,
    }  # fmt: skip
    said = subprocess.run(
        ["apt-get", *(f"-o{key}={value}" for key, value in options.items()), "update", "--print-uris"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert from_addresses(said) == (DEFAULT, DEFAULT_SECURITY)


@pytest.mark.needs("apt-get")
async def test_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mirror, "KEYRING", tmp_path / "keyring")
    with pytest.raises(HostNotReady, match="install the package debian-archive-keyring"):
        await find_mirror("")
    mirror.KEYRING.touch()
    assert (
        await find_mirror("https://mirror.example.org/debian/")
    ).main == "https://mirror.example.org/debian"
    with pytest.raises(InvalidSpec, match="holds a password"):
        await find_mirror("https://user:secret@mirror.example.org/debian")
    for bad in ("ftp://x", "/srv/debian", "http://x y", 'http://x"\n', "http://\x1b"):
        with pytest.raises(InvalidSpec, match="mirror ="):
            await find_mirror(bad)


@pytest.mark.parametrize(
    ("line", "passed"),
    [
        ('Acquire::http::Proxy "http://proxy:3128";', True),
        ('Acquire::http::Proxy::mirror.example.org "DIRECT";', True),
        ('Acquire::Check-Valid-Until "false";', True),
        ('Acquire::http::Proxy "";', False),
        ('Acquire::http::Proxy-Auto-Detect "/usr/bin/x";', False),
        ('Acquire::AllowInsecureRepositories "1";', False),
        ('APT::Update::Pre-Invoke "rm -rf /";', False),
        ("Acquire::http::Proxy", False),
    ],
)
def test_what_of_apts_settings_is_passed_on(line: str, passed: bool) -> None:
    assert mirror._passed_on(line) is passed

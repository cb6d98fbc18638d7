"""The root file system of a test machine, and the Python packages to install there: made once, then cached."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).parents[2]
CACHE = Path(os.environ.get("BANGER_TEST_CACHE") or REPO / ".cache") / "machines"
SUITES = ("bookworm", "trixie")
RECIPE = 2  # a change here makes new roots

# Beside what packaging/packages.debian says that banger needs: a minimal system with sessions.
_BASE = (
    "systemd", "systemd-sysv", "dbus", "dbus-user-session", "polkitd", "pkexec", "libpam-systemd",
    "libnss-systemd", "systemd-resolved", "nftables", "iproute2", "login", "passwd", "procps", "util-linux",
)  # fmt: skip

# Opens sessions at logind for whoever is named, without a password.
_PAM = "account required pam_permit.so\nsession required pam_env.so\nsession required pam_systemd.so\n"

USERS = {"alice": 1001, "bob": 1002}


def packages() -> list[str]:
    """A minimal system, and what packaging/packages.debian names to run and to build banger."""
    lines = (REPO / "packaging/packages.debian").read_text().splitlines()
    rows = [line.split()[:2] for line in lines if line.strip() and not line.startswith("#")]
    wanted = [name for group, name in rows if group in ("run", "build")]
    return [*_BASE, *(name for name in wanted if name not in _BASE)]


def base_root(suite: str) -> Path:
    """The root of this Debian suite; made, in half a minute, if it is missing or its recipe has changed."""
    if suite not in SUITES:
        raise ValueError(f"no suite {suite}; there are {', '.join(SUITES)}")
    return cached(suite, [str(RECIPE), *packages()], lambda folder: _make_root(suite, folder))


def wheelhouse(suite: str) -> Path:
    """A folder with everything that pip needs to install banger in such a root without a network."""
    project = (REPO / "pyproject.toml").read_text()
    root = base_root(suite)
    return cached(f"wheels-{suite}", [root.name, project], lambda folder: _make_wheels(root, folder))


def cached(name: str, recipe: list[str], make: Callable[[Path], None]) -> Path:
    """`CACHE/<name>-<hash of the recipe>`, whole or not at all; older ones of the name are removed."""
    done = CACHE / f"{name}-{hashlib.sha256(chr(10).join(recipe).encode()).hexdigest()[:12]}"
    if done.is_dir():
        return done
    CACHE.mkdir(parents=True, exist_ok=True)
    for left in CACHE.glob("making-*"):  # by a run that was killed
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").is_dir():
            shutil.rmtree(left)
    making = CACHE / f"making-{name}-{os.getpid()}"
    try:
        make(making)
        for old in CACHE.glob(f"{name}-*"):
            shutil.rmtree(old)
        making.rename(done)
    finally:
        if making.is_dir():
            shutil.rmtree(making)
    return done


def _make_root(suite: str, folder: Path) -> None:
    users = "; ".join(f"chroot $1 useradd -m -s /bin/bash -u {uid} {name}" for name, uid in USERS.items())
    _run(
        "mmdebstrap", "--mode=root", "--variant=apt", "--components=main", "--quiet",
        '--aptopt=APT::Install-Recommends "false"', f"--include={','.join(packages())}",
        f"--customize-hook={users}", "--customize-hook=: >$1/etc/machine-id; echo banger-test >$1/etc/hostname",
        suite, str(folder), *_mirror(),
    )  # fmt: skip
    (folder / "etc/pam.d/banger-test").write_text(_PAM)


def _make_wheels(root: Path, folder: Path) -> None:
    """With the root's own Python and pip, on this machine's network and with its certificates."""
    folder.mkdir()
    script = (
        "python3 -m venv /tmp/venv && cd /tmp && "
        '/tmp/venv/bin/python -c \'import tomllib; p = tomllib.load(open("/src/pyproject.toml", "rb"));'
        ' o = p["project"]["optional-dependencies"];'
        ' print(*p["build-system"]["requires"], *o["service"], *o["client"], sep="\\n")\' >wanted && '
        "/tmp/venv/bin/python -m pip wheel -q --use-pep517 --disable-pip-version-check -w /wheels -r wanted"
    )
    _run(
        "systemd-nspawn", "-q", "-D", str(root), "--volatile=overlay", "--register=no", "--keep-unit",
        "--console=pipe", f"--bind={folder}:/wheels", f"--bind-ro={REPO}:/src", *with_host_network(),
        "sh", "-ec", script,
    )  # fmt: skip


def with_host_network() -> list[str]:
    """Options of nspawn with which apt and pip in a root do as they do on this machine."""
    options = ["--resolv-conf=replace-host"]
    env = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower().endswith("_proxy")}
    for name in ("PIP_CERT", "SSL_CERT_FILE", "PIP_FIND_LINKS"):
        value = os.environ.get(name, "")
        if value.startswith("/") and Path(value).exists():
            env[name] = value
            options.append(f"--bind-ro={value}")
    return [*options, *(f"--setenv={name}={value}" for name, value in env.items())]


def _mirror() -> tuple[str, ...]:
    """BANGER_MIRROR, if set; mmdebstrap's own default otherwise."""
    mirror = os.environ.get("BANGER_MIRROR", "")
    return (mirror,) if mirror else ()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")

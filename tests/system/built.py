"""Checkouts that were built already, as by `make` before `sudo make install`: one as it is, one of a later version."""

import subprocess
from pathlib import Path

from tests.system.debian_root import base_root, wheelhouse

SOURCE = "/usr/src/banger-to-install"
LATER = "/usr/src/banger-later"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
# A version that sorts after every one of ours, and programs that are others than before.
MAKE_LATER = f"""
    cp -r {SOURCE} {LATER}
    cd {LATER}
    sed -i 's/^version = ".*"/version = "999.0"/' pyproject.toml
    sed -i 's/^__version__ = ".*"/__version__ = "999.0"/' client/banger/__init__.py
    rm -rf build service/native/build
    sed -i 's/ -Os / -O1 /' service/native/Makefile
"""


def build(suite: str, source: Path, folder: Path) -> None:
    """Put both below `folder`, named as in /usr/src; built in this suite, at the paths where they have to be used."""
    folder.mkdir()
    script = f"cp -r /source {SOURCE}; cd {SOURCE}; rm -rf service/native/build; make; {MAKE_LATER}make"
    argv = [
        "systemd-nspawn", "-q", "-D", str(base_root(suite)), "--volatile=overlay", "--register=no", "--keep-unit",
        "--console=pipe", "--private-network", f"--bind={folder}:/usr/src", f"--bind-ro={source}:/source",
        f"--bind-ro={wheelhouse(suite)}:/wheels", *(f"--setenv={name}={value}" for name, value in OFFLINE.items()),
        "sh", "-ec", script,
    ]  # fmt: skip
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"make in a checkout ended with {done.returncode}\n{done.stdout}\n{done.stderr}")

"""The machine that the tests run on in place of one in nspawn, so that limits have effect and KVM works: the lab.

Tests install, uninstall and break things on it; BANGER_LAB=1 says that it is there for that.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tests.system.built import LATER, SOURCE
from tests.system.debian_root import USERS
from tests.system.machine import Machine

LAB = os.environ.get("BANGER_LAB", "") not in ("", "0")
PAYLOAD = Path("/lab")  # tests/lab/root.py says what is in it

# logind then sees a seat without virtual consoles, as in a container: it takes any number of sessions.
_NO_CONSOLES = "[Service]\nTemporaryFileSystem=/sys/class/tty:ro\n"
_LOGIND = Path("/run/systemd/system/systemd-logind.service.d/banger-test.conf")


class Here(Machine):
    """Made by `take`. Commands run as services of this machine's systemd, as they would in a booted one."""

    def __init__(self) -> None:
        super().__init__(_suite(), "here", Path("/nonexistent"))
        self.root = Path("/")
        self.leader = 1

    @classmethod
    @contextlib.contextmanager
    def take(cls) -> Iterator[Self]:
        """This machine, with a seat that takes sessions. Skips where BANGER_LAB is not set."""
        if not LAB:
            pytest.skip("needs the lab, a machine of its own with KVM: tests/lab/run makes one")
        here = cls()
        _LOGIND.parent.mkdir(parents=True, exist_ok=True)
        _LOGIND.write_text(_NO_CONSOLES)
        here._plain("systemctl", "daemon-reload")
        here._plain("systemctl", "restart", "systemd-logind.service")
        # Their user managers stay: a start of one for each command takes longer than the command.
        here._plain("loginctl", "enable-linger", *USERS)
        yield here

    def furnish(self) -> None:
        """Images, kernels and the built checkouts, at the places where they are in the other machines."""
        self.sh(
            "mkdir -p -m 711 /var/lib/banger;"
            f"cp -r {PAYLOAD}/library/images {PAYLOAD}/library/kernels /var/lib/banger/"
        )
        for checkout in (SOURCE, LATER):
            built = f"{PAYLOAD}/built/{Path(checkout).name}"
            self.sh(f"mkdir -p {checkout}; mountpoint -q {checkout} || mount --bind {built} {checkout}")

    def _enter(self) -> list[str]:
        return []

    def _log(self) -> str:
        return self.journal(lines=40)


def _suite() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("VERSION_CODENAME", "unknown")

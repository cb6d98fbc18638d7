"""The shim and its VMM's console: what it keeps, for whom, and which of its words it believes."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.patience import until
from tests.unit.native_protocol import Shim

StartShim = Callable[..., Shim]
TOP = Path(__file__).parents[2]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_the_console_is_kept_within_its_bounds(start_shim: StartShim) -> None:
    shim = start_shim("--console-max", "10000", vmm=sh("seq 100000; seq 30000 >&2"))
    assert shim.wait() == 0
    newest, older = shim.path("console.log"), shim.path("console.log.1")
    text = older.read_bytes() + newest.read_bytes()
    assert older.stat().st_size == 10000
    assert newest.stat().st_size <= 10000
    assert text.endswith(b"99999\n100000\n")
    assert text.split(b"\n")[1:-1] == [b"%d" % n for n in range(100001 - text.count(b"\n") + 1, 100001)]
    log = shim.path("vmm.log")
    assert 32768 <= log.stat().st_size <= 65536
    assert log.read_bytes().endswith(b"29999\n30000\n")


@pytest.mark.root
@pytest.mark.needs("setpriv")
def test_the_service_can_read_what_is_left(start_shim: StartShim) -> None:
    """It is root, but has the capabilities of its unit alone, and the files are the VM's uid's."""
    unit = (TOP / "packaging/systemd/banger.service.in").read_text()
    (names,) = re.findall("^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    has = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names.split())])
    shim = start_shim("--console-max", "4096", vmm=sh("seq 2000; echo said >&2"))
    assert shim.wait() == 0
    for name in ("console.log", "console.log.1", "vmm.log", "exit"):
        os.chown(shim.path(name), 71000, 71000)
        read = ["setpriv", f"--bounding-set={has}", f"--inh-caps={has}", "cat", shim.path(name)]
        assert subprocess.run(read, stdout=subprocess.DEVNULL, check=False).returncode == 0, name


def test_a_kernel_that_halts_ends_the_vm(start_shim: StartShim) -> None:
    """Firecracker has no power switch: its guest says this and stops, and the VMM would go on for ever."""
    script = "printf 'reboot: System ha'; sleep 0.2; printf 'lted\\n'; exec sleep 1000"
    shim = start_shim(vmm=sh(f"echo reboot: System; {script}"))
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("poweroff", "137")


def test_a_kernel_that_panicked_for_good_ends_the_vm(start_shim: StartShim) -> None:
    script = "echo 'Kernel panic - not syncing: why'; printf -- '[ 1.5] ---[ end Kernel'; sleep 0.2"
    shim = start_shim(vmm=sh(f"{script}; printf -- ' panic - not syncing: why ]---\\n'; exec sleep 1000"))
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["signal"]) == ("panic", "9")


PHRASES = ["reboot: System halted", "---[ end Kernel panic - not syncing: why ]---"]


@pytest.mark.parametrize("phrase", PHRASES)
def test_what_a_program_says_on_the_console_ends_no_vm(chain: Shim, phrase: str) -> None:
    """A server without an init may log what strangers ask for."""
    say = f"for i in 1 2 3; do echo '{phrase}'; done > /proc/$PPID/fd/1"
    for _ in range(2):
        chain.run("sh", "-c", say)
    log = chain.path("console.log")
    until(lambda: log.read_text().count(phrase) == 6, log.read_text)
    assert chain.run("echo", "alive").stdout == b"alive\n"
    time.sleep(6)  # longer than the guest has for its answer
    assert chain.status()["state"] == "ready"
    assert chain.run("echo", "alive").stdout == b"alive\n"


def test_a_kernel_that_is_halted_by_force_leaves_its_agent_unable_to_answer(chain: Shim) -> None:
    halt = f"sleep 0.2; echo '{PHRASES[0]}' > /proc/$PPID/fd/1; kill -STOP $PPID"
    chain.run("sh", "-c", f"({halt}) < /dev/null > /dev/null 2>&1 &")
    assert chain.wait() == 0
    assert chain.record()["reason"] == "poweroff"

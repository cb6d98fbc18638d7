"""`tests/lab/run`: the lab is booted, and pytest, or with --bench the benchmarks, run in it as they would here; reports
and logs come out."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

from banger.errors import Failure
from banger.interrupt import Interrupted, Interrupts
from bangerd.host.facts import probe_kvm
from tests.guest.machine import recipe
from tests.lab.machine import Lab, LabError
from tests.lab.root import SOURCE
from tests.system.debian_root import REPO

CACHE = "/var/cache/banger-tests"
# Where tests marked `lab` are, for a word or two of the command line may choose among them.
LAYERS = ("tests/guest", "tests/system")
# How many times longer than usual a wait may take where SVM is emulated.
PATIENCE = 10
LOGS = REPO / "build/lab"
DRIVERS = ("qemu", "firecracker")


def main(words: list[str]) -> int:
    """pytest's exit status; 2 where it could not run; 128+n when signal n ended it."""
    binary = os.environ.get("FIRECRACKER_BIN", "")
    if binary and not (Path(binary).is_file() and os.access(binary, os.X_OK)):
        return _complain(f"FIRECRACKER_BIN={binary} is no program")
    if os.geteuid() != 0:
        return _complain("needs root: it mounts and makes file systems")
    if words[:1] == ["--here"]:
        return _here(words[1:])
    if not binary:
        print("lab: FIRECRACKER_BIN names no binary: Firecracker's tests are skipped", flush=True)
    try:
        with Interrupts():
            return _lab(words, binary)
    except Interrupted as exc:
        return _complain(str(exc), exc.failure.status)
    except (LabError, Failure) as exc:
        return _complain(str(exc))


def _complain(text: str, status: int = 2) -> int:
    print(f"lab: {text}", file=sys.stderr)
    return status


def _here(options: list[str]) -> int:
    """On this machine: of the marked tests, those that touch nothing of it."""
    works, why = probe_kvm()
    if not works:
        return _complain(f"--here needs KVM, and {why}; without --here the lab brings its own")
    if options and (not options[0].startswith("-") or options[0] == "--bench"):
        return _complain(
            f"--here takes options of pytest's, not {options[0]}; tests/run and tests/bench/run take the rest"
        )
    tests = [str(REPO / "tests/run"), "guest", "-m", "lab", f"--junitxml={LOGS / 'lab.xml'}"]
    return subprocess.run([*tests, *options], check=False).returncode


def _lab(words: list[str], binary: str) -> int:
    start = time.monotonic()
    with Lab.boot(binary) as lab:
        _say("up", start)
        try:
            _furnish(lab)
            if words[:1] == ["--bench"]:
                return _bench(lab, words[1:], firecracker=bool(binary))
            return _pytest(lab, words, firecracker=bool(binary))
        finally:
            _fetch_logs(lab)
            _say(f"report and logs are in {os.path.relpath(LOGS)}", start)


def _furnish(lab: Lab) -> None:
    """The checkout at its place, compiled once, images and kernels where tests look for them; these install banger.

    Raises LabError where KVM does not work: QEMU would emulate then, and nothing would be told of it.
    """
    lab.sh(f"""
        cp -r /lab/source/. {SOURCE}
        mkdir -p {CACHE}
        cp -r /lab/library {CACHE}/library-{recipe()}
        cd {SOURCE}
        .venv/bin/python -m compileall -q -j 0 client service packaging tests
        .venv/bin/python -c 'from bangerd.host.facts import probe_kvm; works, why = probe_kvm(); assert works, why'
    """)


def _pytest(lab: Lab, words: list[str], *, firecracker: bool) -> int:
    named = words and not words[0].startswith("-")
    return lab.run(
        f"{SOURCE}/.venv/bin/python", "-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=10",
        "--junitxml=/tmp/lab.xml", *(words if named else ("-m", "lab", *LAYERS, *words)),
        env=_environment(lab, firecracker=firecracker), cwd=SOURCE, sink=_out, check=False,
    )  # fmt: skip


def _bench(lab: Lab, words: list[str], *, firecracker: bool) -> int:
    """The benchmarks' exit status."""
    env = _environment(lab, firecracker=firecracker) | {"PYTHONPATH": f"{SOURCE}:{SOURCE}/packaging"}
    return lab.run(
        f"{SOURCE}/.venv/bin/python", "-m", "tests.bench", "--json=/tmp/bench.json", *(words or ("boot",)),
        env=env, cwd=SOURCE, sink=_out, check=False,
    )  # fmt: skip


def _environment(lab: Lab, *, firecracker: bool) -> dict[str, str]:
    env = {
        "BANGER_TEST_CACHE": CACHE,
        "BANGER_TEST_PATIENCE": str(PATIENCE if lab.emulated else 1),
        "BANGER_REQUIRE": "1",
        "BANGER_LAB": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/root",
    }
    return env | ({"FIRECRACKER_BIN": "/lab/firecracker"} if firecracker else {})


def _fetch_logs(lab: Lab) -> None:
    """Report, journal and console, as far as there are any."""
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in LOGS.iterdir():
        old.unlink()
    (LOGS / "console.txt").write_text(lab.console(whole=True))
    if not lab.runs():
        return
    (LOGS / "journal.txt").write_text(lab.sh("journalctl -b --no-pager"))
    if samples := lab.sh("cat /tmp/bench.json 2>/dev/null || true"):
        (LOGS / "bench.json").write_text(samples)
    if report := lab.sh("cat /tmp/lab.xml 2>/dev/null || true"):
        (LOGS / "lab.xml").write_text(report)
        _sum_up(report)


def _sum_up(report: str) -> None:
    """How many tests of each driver passed, and how long they took."""
    counts: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    for case in ET.fromstring(report).iter("testcase"):
        whole = f"{case.get('classname', '')}.{case.get('name', '')}"
        driver = next((name for name in DRIVERS if name in whole), "neither")
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        counts[driver, bad[0] if bad else "passed"] += 1
        seconds[driver] += float(case.get("time", "0"))
    for driver, took in seconds.items():
        how = ", ".join(f"{count} {what}" for (whose, what), count in counts.items() if whose == driver)
        print(f"lab: {driver}: {how}, {took:.0f} s")


def _say(text: str, start: float) -> None:
    print(f"lab: {text}, after {time.monotonic() - start:.0f} s", flush=True)


def _out(data: memoryview) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

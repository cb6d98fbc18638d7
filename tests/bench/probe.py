"""Runs commands turn by turn, as whoever started it, and tells how long each took. Standard library only.

Standard input: {"rounds": n, "commands": {name: argv}}. Standard output: for each run [name, start, end, CPU seconds],
times in seconds since the epoch. A command that fails ends it with status 1 and its words on standard error.
"""

import json
import os
import subprocess
import sys
import time


def measure(argv: list[str]) -> tuple[float, float, float]:
    start = time.time()
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
    )
    assert child.stderr is not None
    with child.stderr:
        said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    end = time.time()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(argv)} ended with {child.returncode}: {said.decode('utf-8', 'replace')}")
    return start, end, used.ru_utime + used.ru_stime


def main() -> None:
    order = json.load(sys.stdin)
    names = list(order["commands"])
    results = []
    for turn in range(order["rounds"]):
        # Each is first as often as the others.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            results.append((name, *measure(order["commands"][name])))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

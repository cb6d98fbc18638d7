"""`tests/bench/run`: measures what banger promises about speed, prints tables and how the goals are met."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bangerd.host.facts import HostFacts
from privatehost import TOP, HostError
from tests.bench import facts
from tests.bench.host import running
from tests.bench.parts import PARTS, Bench
from tests.bench.stats import pairs, table
from tests.guest.machine import build_library


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("-n", type=int, default=5, help="turns of each measurement (default 5)")
    parser.add_argument(
        "--stock-n", type=int, default=0, help="turns of the stock way (default: as -n, 3 at most)"
    )
    parser.add_argument("--json", type=Path, help="write all samples there")
    args = parser.parse_args()
    args.parts = args.parts or list(PARTS)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if args.n < 1:
        parser.error("-n: 1 or more")
    args.stock_n = args.stock_n or min(args.n, 3)
    return args


@contextmanager
def scratch(cache: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=cache))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def main() -> int:
    args = parse_args()
    if os.geteuid() != 0:
        print(
            "tests/bench/run: run this as root: it starts a bus, polkitd and bangerd of its own",
            file=sys.stderr,
        )
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))  # by way of every `finally`
    cache = Path(os.environ.get("BANGER_TEST_CACHE") or TOP / ".cache/tests").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    kvm, why = HostFacts(()).kvm()
    print(pairs("Host", facts.facts(f"{'KVM' if kvm else 'TCG'}: {why}")), flush=True)
    try:
        needed = any(PARTS[part].needs_image for part in args.parts)
        library = build_library(cache) if needed else cache / "library"
        with scratch(cache) as folder, running(folder / "host", library) as host:
            bench = Bench(host, cache, library, kvm, folder, args.n, args.stock_n)
            try:
                for part in args.parts:
                    for text in PARTS[part].run(bench):
                        print(text, flush=True)
            finally:
                bench.close()
    except (RuntimeError, HostError, subprocess.CalledProcessError) as exc:
        # What went wrong first, and what taking the host down then met.
        for error in filter(None, (exc.__context__, exc)):
            print(f"tests/bench/run: {error}", file=sys.stderr)
        return 1
    heads = ("Goal", "figure", "at most", "")
    print(table("Goals", heads, [goal.row() for goal in bench.goals]))
    print(f"load at the end: {facts.load()}")
    if args.json:
        args.json.write_text(json.dumps(bench.samples(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

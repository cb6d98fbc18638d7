#!/usr/bin/env python3
"""Brings a host up, runs one command there as an unprivileged user, takes all down again.

usage: demohost.py --runtime DIR --state DIR --user NAME -- CMD…     a private host (privatehost.py)
       demohost.py --installed PREFIX --user NAME -- CMD…            this machine's own (installedhost.py)

Exits with CMD's status. Whatever ends it (INT, TERM, HUP), everything is taken down; what a SIGKILL of it leaves,
the next one removes first.
"""

import argparse
import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from installedhost import InstalledHost
from privatehost import RULE, HostError, Layout, PrivateHost


class Ended(BaseException):
    """A signal asked this program to end."""


class Command:
    """The user's command, and what signals do while it runs and while it does not."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.closing = False

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.closing:
            return  # it ends anyway; an interrupted end would leave things behind
        if self.child is None:
            raise Ended(128 + number)
        if number != signal.SIGINT:  # Ctrl-C at a terminal goes to the command by itself
            self.child.send_signal(number)

    def run(self, argv: list[str], env: dict[str, str]) -> int:
        """The command's status as a shell would say it."""
        self.child = subprocess.Popen(argv, env=env)
        status = self.child.wait()
        self.child = None
        return status if status >= 0 else 128 - status


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """One long step, on stderr, with its time."""
    print(f"  {text + '…':<58} ", end="", file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print("no", file=sys.stderr)
        raise
    print(f"{time.monotonic() - start:.1f} s", file=sys.stderr)


def say(text: str) -> None:
    print(text, file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--runtime", type=Path, default=Path("/run/banger-demo"))
    parser.add_argument("--state", type=Path, default=Path("/var/lib/banger-demo/banger"))
    parser.add_argument("--installed", type=Path, metavar="PREFIX")
    parser.add_argument("--user", required=True)
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def bring_up(host: PrivateHost | InstalledHost, user: str) -> None:
    if isinstance(host, InstalledHost):
        if not host.is_current():
            with step("building banger"):
                host.build()
            with step(f"installing banger to {host.prefix}"):
                host.install()
        with step("giving polkitd the demo's rule"):
            host.start()
    else:
        with step("starting a private system bus and polkitd"):
            host.start()
    say(f"  polkitd has one rule more than usual, for the user {user}:")
    say("".join(f"    {line}\n" for line in RULE.format(user=user).splitlines()).rstrip())
    with step("starting bangerd, as the bus does on the first call"):
        host.activate()


def main() -> int:
    args = parse()
    home = pwd.getpwnam(args.user).pw_dir
    host: PrivateHost | InstalledHost
    if args.installed:
        host = InstalledHost(args.installed, args.user)
    else:
        host = PrivateHost(Layout(args.runtime, args.state, (args.user,)))
    command = Command()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, command.on_signal)
    status = 1
    try:
        bring_up(host, args.user)
        argv, env = host.command(args.user, args.command)
        os.chdir(home)
        say("")
        status = command.run(argv, env)
        say("")
    except Ended as ended:
        status = int(ended.args[0])
    except HostError as exc:
        say(f"\ndemo: {exc}")
    finally:
        command.closing = True
        try:
            with step("taking everything down again"):
                host.stop()
        except HostError as exc:
            say(f"\ndemo: {exc}")
            status = status or 1
    return status


if __name__ == "__main__":
    sys.exit(main())

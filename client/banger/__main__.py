"""Entry point of `banger`."""

import atexit
import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    # The default, not Python's: while a call is under way C code waits and would not notice KeyboardInterrupt.
    # Long work and sessions handle the signal themselves.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _ensure_standard_streams()
    words = sys.argv[1:]
    if words[:1] == ["ssh-connect"]:  # ssh waits for it, twice in each connection
        from banger.ssh.connect import run as dispatch

        words = words[1:]
    else:
        from banger.cli import main as dispatch

    status = dispatch(words)
    # Tearing GLib and the interpreter down takes 20 ms, a sixth of all, and there is nothing left to tidy up
    # but what asked for it.
    atexit._run_exitfuncs()  # noqa: SLF001 - what sys.exit would do first
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = status or 128 + signal.SIGPIPE
    os._exit(status)


def _ensure_standard_streams() -> None:
    """A standard stream that was closed would be taken by the next socket, and output would go there."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - by number, for good


if __name__ == "__main__":
    main()

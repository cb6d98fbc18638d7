"""Changing the config in the user's editor: on a copy, checked, and put in place at once."""

import os
import shlex
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from banger import render
from banger.config import parse, place
from banger.config.template import template
from banger.errors import Failure
from banger.interrupt import Interrupted, Interrupts

_EDITORS = ("editor", "sensible-editor", "nano", "vim", "vi")  # the first is Debian's choice


def edit() -> bool:
    """Let the user edit the config, until it is right; whether it has changed. Raises Failure, with nothing changed."""
    file = Path(os.path.realpath(place.path()))  # a link to a file elsewhere stays one
    argv = _editor()
    before = _read(file)
    text = template().encode() if before is None else before
    with Interrupts() as interrupts, _copy(file, text) as copy:
        _until_right(argv, copy, interrupts)
        return _put(copy, file, before, text)


@contextmanager
def _copy(file: Path, text: bytes) -> Iterator[Path]:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(".toml", f".{file.stem}-", file.parent)
    except OSError as exc:
        raise _cannot(file, exc) from None
    os.close(fd)
    copy = Path(name)
    try:
        copy.write_bytes(text)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _until_right(argv: list[str], copy: Path, interrupts: Interrupts) -> None:
    while True:
        _run(argv, copy, interrupts)
        try:
            parse(_decoded(copy))
        except Failure as exc:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                exc.hint = "nothing was changed"
                raise
            render.failure(exc, json_wanted=False)
            if not _again():
                raise Failure(
                    "Canceled", "the config is as it was", why="what you wrote is not right"
                ) from None
        else:
            return


def _decoded(copy: Path) -> str:
    try:
        return copy.read_bytes().decode()
    except UnicodeDecodeError as exc:
        raise Failure("InvalidConfig", "what you wrote is no UTF-8", why=str(exc)) from None


def _again() -> bool:
    sys.stderr.write("Edit it again? [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    return bool(answer) and not answer.strip().lower().startswith("n")


def _put(copy: Path, file: Path, before: bytes | None, given: bytes) -> bool:
    """Replace the config by the copy in one step, with its mode and owner; False if there is nothing new."""
    after = copy.read_bytes()
    if after == given and before is not None:
        return False
    if _read(file) != before:
        raise Failure(
            "Changed",
            f"{place.shown(file)} was changed by somebody else meanwhile",
            hint="edit it once more",
        )
    try:
        with copy.open("rb") as stream:
            if before is not None:
                facts = file.stat()
                if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
                    with suppress(PermissionError):
                        os.fchown(stream.fileno(), facts.st_uid, facts.st_gid)
                os.fchmod(stream.fileno(), stat.S_IMODE(facts.st_mode))
            os.fsync(stream.fileno())
        copy.replace(file)
    except OSError as exc:
        raise _cannot(file, exc) from None
    return True


def _read(file: Path) -> bytes | None:
    try:
        if file.exists() and not file.is_file():
            raise Failure("InvalidConfig", f"{place.shown(file)} is no regular file", hint="move it away")
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _cannot(file, exc) from None


def _cannot(file: Path, error: OSError) -> Failure:
    return Failure("Failed", f"{place.shown(file)} cannot be edited", why=os.strerror(error.errno or 0))


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if words := os.environ.get(variable, "").strip():
            try:
                return shlex.split(words)
            except ValueError as exc:
                raise Failure("NoEditor", f"{variable} is no command", why=str(exc)) from None
    for program in _EDITORS:
        if shutil.which(program):
            return [program]
    raise Failure("NoEditor", "there is no editor", hint="set EDITOR to the one you like")


def _run(argv: list[str], copy: Path, interrupts: Interrupts) -> None:
    # Keys that interrupt are for the editor, as in git.
    waiting = {signum: signal.signal(signum, signal.SIG_IGN) for signum in (signal.SIGINT, signal.SIGQUIT)}
    pid = 0
    try:
        with interrupts.held():
            pid = os.posix_spawnp(argv[0], [*argv, str(copy)], os.environ, setsigdef=list(waiting))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except Interrupted:
        if pid:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        raise
    except OSError as exc:
        raise Failure(
            "NoEditor",
            f"the editor {argv[0]!a} cannot be run",
            why=os.strerror(exc.errno or 0),
            hint="set EDITOR",
        ) from None
    finally:
        for signum, handler in waiting.items():
            signal.signal(signum, handler)
    if status:
        raise Failure(
            "EditorFailed", f"the editor {argv[0]!a} failed with {status}", hint="nothing was changed"
        )

"""What `vm run` and `vm exec` are told about the command: its options, and the command as the guest takes it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from banger import context, envfile, messages, render, terminal, units
from banger.cli import complete
from banger.cli.options import Output
from banger.config import Forward, settings
from banger.errors import UsageError
from banger.messages import Command

# Filled with what stands after `--`, which is never parsed.
Tail = Annotated[tuple[str, ...], Parameter(parse=False)]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class How:
    """How the command runs."""

    env: Annotated[
        list[str] | None,
        Parameter(
            name=["--env", "-e"],
            metavar="NAME=VALUE",
            negative=(),
            help="NAME=value for it; NAME takes it from here.",
        ),
    ] = None
    env_file: Annotated[
        list[str] | None,
        Parameter(
            metavar="FILE",
            negative=(),
            completer=complete.path,
            help="A file of such lines, as docker has them.",
        ),
    ] = None
    user: Annotated[str, Parameter(help="The guest's user to run it as; root by default.")] = ""
    workdir: Annotated[
        str, Parameter(metavar="FOLDER", help="The folder to run it in; the user's home by default.")
    ] = ""
    tty: Annotated[bool | None, Parameter(help="Give it a terminal. By default if we have one.")] = None
    timeout: Annotated[
        str, Parameter(metavar="TIME", help="End it after 90s, 10m; its status is 124 then.")
    ] = ""
    detach: Annotated[
        bool,
        Parameter(
            name=["--detach", "-d"], negative=(), help="Leave it running, its output in a file there."
        ),
    ] = False
    forward: Annotated[
        str,
        Parameter(metavar="LIST", help="proxy, ca, term, timezone, git; no-X; all; none."),
    ] = ""

    def checked(self, argv: Sequence[str]) -> "Planned":
        """All that can be said before there is a guest. Raises UsageError."""
        planned = Planned(
            tuple(argv),
            _settings(self),
            self.user,
            self.workdir,
            terminal.size() if _wants_tty(self) else None,
            units.parse_duration(self.timeout, "timeout") if self.timeout else None,
            forwarded(self.forward),
        )
        if self.detach and not argv:
            raise UsageError("--detach needs a command", hint="put it after `--`")
        if self.detach and self.tty:
            raise UsageError("--detach leaves no terminal to a command", hint="leave --tty away")
        planned.command(())  # what no guest could run is refused before anything is made
        return planned


@dataclass(frozen=True, slots=True)
class Planned:
    """A command that is known but for what the guest adds."""

    argv: tuple[str, ...]
    env: dict[str, str]  # what the user asked for by name
    user: str
    workdir: str
    tty: tuple[int, int] | None
    timeout_s: float | None
    wishes: Forward

    def surroundings(
        self, open_session: Callable[[], int], output: Output, *, folder: str = ""
    ) -> tuple[str, ...]:
        """Bring into the guest what it shall know of ours; return its variables. `folder`: a repository here."""
        found = context.gather(self.wishes, tty=self.tty is not None, folder=folder)
        if not (output.quiet or output.json):
            for remark in found.remarks:
                render.note(remark)
        return context.bring(open_session, found)

    def command(self, surroundings: Sequence[str], *, workdir: str = "") -> Command:
        """The command; `workdir` holds where the user named none. The user's variables win over the surroundings'."""
        variables = dict(variable.split("=", 1) for variable in surroundings) | self.env
        command = Command(
            self.argv,
            tuple(f"{name}={value}" for name, value in variables.items()),
            self.workdir or workdir,
            self.user,
            self.tty,
        )
        messages.encode(command)
        return command


def forwarded(words: str) -> Forward:
    """`--forward`'s value over the config's: names replace it, `no-NAME` takes away. Raises UsageError."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in ("all", "none") and name.removeprefix("no-") not in context.ALL:
            raise UsageError(
                f"--forward does not know {name[:80]!a}",
                hint=f"it takes {', '.join(context.ALL)}, each also as no-NAME; or all, or none",
            )
    chosen = [name for name in names if not name.startswith("no-") and name != "none"]
    if "all" in chosen:
        chosen = list(context.ALL)
    elif not chosen and "none" not in names:
        configured = settings().forward
        chosen = [name for name in context.ALL if getattr(configured, name)]
    taken = {name.removeprefix("no-") for name in names if name.startswith("no-")}
    return Forward(**{name: name in chosen and name not in taken for name in context.ALL})


def _wants_tty(how: How) -> bool:
    if how.tty is None:
        return not how.detach and all(os.isatty(fd) for fd in range(3))
    return how.tty


def _settings(how: How) -> dict[str, str]:
    variables: dict[str, str] = {}
    for path in how.env_file or ():
        variables |= envfile.read(path, os.environ)
    for setting in how.env or ():
        name, given, value = setting.partition("=")
        if given:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
        else:
            raise UsageError(
                f"{name[:80]!a} is not in the environment", hint=f"write --env {name[:80]}=VALUE"
            )
    return variables

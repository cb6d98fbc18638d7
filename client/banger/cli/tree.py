"""The tree of commands as Cyclopts wants it. What carries a command out is imported when it is called for."""

from cyclopts import App, Parameter

from banger import __version__
from banger.cli.help import GROUPS
from banger.cli.help.shape import Command, Group

WELCOME = """\
banger: one-command development sandboxes on microVMs. Three things to try:

  banger vm run                        a shell in a new VM; --rm deletes it after
  banger vm run ./repo -- make test    your repository there, and a command in it
  banger vm list                       the VMs you have

`banger --help` shows all commands, `banger doctor` whether this machine is fit."""

SUMMARY = "One-command development sandboxes on microVMs."

EPILOGUE = """\
Exit status: 0 done, 1 failed, 2 wrong request. `vm run` and `vm exec` give the
command's own, or 125 banger failed, 126 not executable, 127 not found,
128+N ended by signal N. `banger COMMAND --help` tells more, `man banger` all."""


def build() -> App:
    """The tree as Cyclopts wants it."""
    root = App(
        name="banger",
        help=SUMMARY,
        help_format="plaintext",
        version=__version__,
        default_command=_welcome,
        default_parameter=Parameter(show_default=False),
    )
    for group in GROUPS:
        _add(root, group)
    return root


def _add(parent: App, entry: Command | Group) -> None:
    if isinstance(entry, Command):
        parent.command(f"banger.cli.{entry.target}", name=entry.name, help=entry.help)
        return
    app = App(name=entry.name, help=entry.help) if entry.name else parent
    for inner in entry.commands:
        _add(app, inner)
    if app is not parent:
        parent.command(app)


def _welcome() -> None:
    print(WELCOME)

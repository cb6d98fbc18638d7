"""The tree of commands with its help. Naming a command here imports nothing: that happens when it is called for."""

from dataclasses import dataclass

from cyclopts import App, Parameter

from banger import __version__

WELCOME = """\
banger: one-command development sandboxes on microVMs. Three things to try:

  banger vm run                     a shell in a new VM; --rm deletes it when you leave
  banger vm run --rm -- uname -a    one command in a throw-away VM, its exit status yours
  banger vm list                    the VMs you have

`banger --help` shows all commands, `banger doctor` whether this machine is fit."""

_ROOT = """\
`banger COMMAND --help` tells more. All take --json (for scripts) and --quiet.

Exit status: 0 done, 1 failed, 2 wrong request. `vm run` and `vm exec` give the
command's own, or 125 banger failed, 126 not executable, 127 not found,
128+N ended by signal N."""

_VM = """\
Examples:
  banger vm run --name web --memory 2G   make 'web', start it, open a shell
  banger vm exec web -- make test        run a command there
  banger vm exec web                     a shell there again
  banger vm stop web                     power it off
  banger vm delete web                   remove it"""

_RUN = """\
Without a command: a login shell. Without --rm the VM runs on. The image is got
first if it is not here. Exit status: the command's own; 125 banger failed,
126 not executable, 127 not found, 128+N ended by signal N. In a shell that
hangs, Ctrl-] three times leaves.

Examples:
  banger vm run --rm                             a throw-away shell
  banger vm run --rm -- sh -c 'uname -r; exit 7' its status is 7
  banger vm run --name web --vcpu 2 --memory 2G -e PORT=80 -- ./serve"""

_EXEC = """\
Without a command: a login shell. Streams and exit status are the command's own,
as with `vm run`. Ctrl-] three times leaves a shell that hangs.

Examples:
  banger vm exec web                     a shell
  banger vm exec web -- tail -f /var/log/syslog
  tar c . | banger vm exec web --workdir /srv -- tar x"""

_LOGS = """\
What would act on your terminal (cursor, title, hidden text) is left out; --raw
keeps it. --follow ends with the VM, or with Ctrl-C. --json gives an object for
each line."""

_COMPLETION = """\
Names of VMs are looked up as you type.

  bash: banger completion bash > /etc/bash_completion.d/banger
  zsh:  banger completion zsh > ~/.zfunc/_banger     (with ~/.zfunc in fpath)
  fish: banger completion fish > ~/.config/fish/completions/banger.fish"""


@dataclass(frozen=True, slots=True)
class _Command:
    """`target` is "module:function" below banger.cli; `usage` what follows the options."""

    name: str
    target: str
    help: str
    epilogue: str = ""
    usage: str = ""


@dataclass(frozen=True, slots=True)
class _Group:
    """A first word and its commands; without a name, commands of one word."""

    name: str
    help: str
    commands: tuple[_Command, ...]
    epilogue: str = ""


_GROUPS = (
    _Group(
        "vm",
        "Make, use and remove VMs.",
        (
            _Command(
                "run",
                "run:run",
                "Make a VM, start it and run a command or a shell.",
                _RUN,
                "[-- COMMAND...]",
            ),
            _Command(
                "exec",
                "run:exec_",
                "Run a command or a shell in a VM that runs.",
                _EXEC,
                "NAME [-- COMMAND...]",
            ),
            _Command("create", "vm:create", "Make a VM without starting it."),
            _Command("start", "vm:start", "Start VMs, and wait until their guests answer."),
            _Command("stop", "vm:stop", "Have VMs power off; end those that do not in time."),
            _Command("restart", "vm:restart", "Stop VMs and start them again."),
            _Command("kill", "vm:kill", "End VMs at once, as by pulling the plug."),
            _Command("pause", "vm:pause", "Freeze VMs where they are."),
            _Command("resume", "vm:resume", "Let paused VMs go on."),
            _Command("delete", "vm:delete", "Remove VMs with their disks, also those that run."),
            _Command("list", "vm:list_", "List your VMs."),
            _Command("show", "vm:show", "Show all about one VM."),
            _Command("logs", "logs:logs", "Show a VM's console.", _LOGS),
        ),
        _VM,
    ),
    _Group(
        "image",
        "Get and remove images.",
        (
            _Command("list", "image:list_", "List the images on this machine."),
            _Command("pull", "image:pull", "Get an image of the catalog, and the default kernel."),
            _Command("delete", "image:delete", "Remove images that no VM uses."),
        ),
    ),
    _Group(
        "kernel",
        "Look at kernels.",
        (_Command("list", "image:kernels", "List the kernels on this machine."),),
    ),
    _Group(
        "job",
        "Look at long work, and cancel it.",
        (
            _Command("list", "system:jobs", "List what is under way, or ended within the last minute."),
            _Command("cancel", "system:cancel", "Cancel a job; what it had made so far is removed."),
        ),
    ),
    _Group(
        "",
        "",
        (
            _Command("doctor", "system:doctor", "Check whether this machine is fit for VMs."),
            _Command("version", "system:version", "Show the versions of client and service."),
            _Command(
                "completion", "system:completion", "Print a completion script for your shell.", _COMPLETION
            ),
        ),
    ),
)


def build() -> App:
    """The tree as Cyclopts wants it."""
    root = App(
        name="banger",
        help="One-command development sandboxes on microVMs.",
        help_format="plaintext",
        help_epilogue=_ROOT,
        version=__version__,
        default_command=_welcome,
        default_parameter=Parameter(show_default=False),
    )
    for group in _GROUPS:
        app = App(name=group.name, help=group.help, help_epilogue=group.epilogue) if group.name else root
        for command in group.commands:
            usage = f"banger {group.name} {command.name} [OPTIONS] {command.usage}"
            app.command(
                f"banger.cli.{command.target}",
                name=command.name,
                help=command.help,
                help_epilogue=command.epilogue,
                usage=f"Usage: {usage}" if command.usage else None,
            )
        if app is not root:
            root.command(app)
    return root


def _welcome() -> None:
    print(WELCOME)

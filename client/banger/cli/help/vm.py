"""`banger vm …`."""

from banger.cli.help.shape import Command, Group

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

_PREPARE = """\
Takes the files that git tracks, as they are in the working tree, to a folder of
the same name in the guest's /root, as a git repository one can commit in. PATH
(the present folder) may be a folder of it. Nothing is changed on this side.

Examples:
  banger vm workspace prepare web                the repository you are in
  banger vm workspace prepare web ~/src/app --branch try
  banger vm workspace prepare web --dry-run      only list what would be taken"""

WORKSPACE = Group(
    "workspace",
    "Take a repository into a VM, and bring back what changed there.",
    (
        Command(
            "prepare",
            "workspace:prepare",
            "Take a repository into a VM that runs.",
            _PREPARE,
            "NAME [PATH]",
        ),
    ),
)

VM = Group(
    "vm",
    "Make, use and remove VMs.",
    (
        Command(
            "run",
            "run:run",
            "Make a VM, start it and run a command or a shell.",
            _RUN,
            "[-- COMMAND...]",
        ),
        Command(
            "exec",
            "run:exec_",
            "Run a command or a shell in a VM that runs.",
            _EXEC,
            "NAME [-- COMMAND...]",
        ),
        Command("create", "vm:create", "Make a VM without starting it."),
        Command("start", "vm:start", "Start VMs, and wait until their guests answer."),
        Command("stop", "vm:stop", "Have VMs power off; end those that do not in time."),
        Command("restart", "vm:restart", "Stop VMs and start them again."),
        Command("kill", "vm:kill", "End VMs at once, as by pulling the plug."),
        Command("pause", "vm:pause", "Freeze VMs where they are."),
        Command("resume", "vm:resume", "Let paused VMs go on."),
        Command("delete", "vm:delete", "Remove VMs with their disks, also those that run."),
        Command("list", "vm:list_", "List your VMs."),
        Command("show", "vm:show", "Show all about one VM."),
        WORKSPACE,
        Command("logs", "logs:logs", "Show a VM's console.", _LOGS),
    ),
    _VM,
)

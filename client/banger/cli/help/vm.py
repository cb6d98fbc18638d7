"""`banger vm …`."""

from banger.cli.help.shape import Command, Group

_VM = """\
Examples:
  banger vm run --name web         a shell in a new VM called web
  banger vm exec web -- make test  a command there, later on"""

_CREATE = """\
Prints its name. The image is got first if it is not here.

Examples:
  banger vm create --name web --memory 2G && banger vm start web"""

_START = """\
Examples:
  banger vm start web db"""

_STOP = """\
The guest is asked to power off. One that has not done so in time is ended.

Examples:
  banger vm stop web db"""

_RESTART = """\
Examples:
  banger vm restart web"""

_KILL = """\
What a guest has not written to its disk is lost.

Examples:
  banger vm kill web"""

_PAUSE = """\
A paused VM keeps its memory and uses no CPU.

Examples:
  banger vm pause web     later: banger vm resume web"""

_RESUME = """\
Examples:
  banger vm resume web"""

_DELETE = """\
There is no way back. Caches stay.

Examples:
  banger vm delete web db"""

_LIST = """\
Examples:
  banger vm list
  banger vm list --all              other users' too, what everybody may see
  banger vm list --json | jq -r '.[].name'"""

_SHOW = """\
Examples:
  banger vm show web
  banger vm show web --json | jq -r .address"""

_RUN = """\
Without a command: a login shell. Without --rm the VM runs on. The image is got
first if it is not here. Exit status: the command's own; 125 banger failed,
126 not executable, 127 not found, 128+N ended by signal N. In a shell that
hangs, Ctrl-] three times leaves.

Examples:
  banger vm run ./repo                           a shell in /root/repo
  banger vm run ./repo -- make test              its status is yours
  banger vm run --rm -- sh -c 'uname -r; exit 7' a throw-away VM
  banger vm run --name web -e PORT=80 -d -- ./serve"""

_EXEC = """\
Without a command: a login shell. Streams and exit status are the command's own,
as with `vm run`. Ctrl-] three times leaves a shell that hangs.

Examples:
  banger vm exec web                     a shell
  banger vm exec web -- tail -f /var/log/syslog
  tar c . | banger vm exec web --workdir /srv -- tar x"""

_SSH = """\
The VM has to run. ssh's own options stand between NAME and `--`: -A for your
agent, -L, -R and -D for ports, -N, -t, -v… Its host key is known beforehand:
nothing is trusted on first use. Exit status: the command's; 255 ssh failed, 125
banger did. `banger ssh-config` gives you plain `ssh NAME.vm`, scp and rsync.

Examples:
  banger vm ssh web                            a shell
  banger vm ssh web -L 8080:localhost:80 -N    its port 80 as our 8080
  banger vm ssh web -A -- git clone git@github.com:me/repo"""

_CP = """\
One side is in a VM: NAME:/path (relative: below /root). The other is here, or -
for a tar stream. Into a folder that is there SRC goes under its own name, or
what is in it if SRC ends with /. ; else DST is its new name. Modes, times and
links are kept; files are root's there and yours here. What comes out of a VM is
checked, and nothing of it taken if it could harm.

Examples:
  banger vm cp notes.txt web:              to /root/notes.txt
  banger vm cp web:/var/log/nginx .        the folder, to ./nginx
  banger vm cp site/. web:/var/www/html    what is in it
  banger vm cp web:/etc - | tar -t         as a tar stream"""

_LOGS = """\
What would act on your terminal (cursor, title, hidden text) is left out; --raw
keeps it. --follow ends with the VM, or with Ctrl-C. --json gives an object for
each line.

Examples:
  banger vm logs web
  banger vm logs --follow web"""

_PREPARE = """\
Takes the files that git tracks, as they are in the working tree, to a folder of
the same name in the guest's /root, as a git repository one can commit in. PATH
(the present folder) may be a folder of it. Nothing is changed on this side.

Examples:
  banger vm workspace prepare web                the repository you are in
  banger vm workspace prepare web ~/src/app --branch try
  banger vm workspace prepare web --dry-run      only list what would be taken"""

_EXPORT = """\
Commits made there, and on top of them one of what was not committed (new files
too, but none that git ignores), become the branch banger/NAME of the repository
that PATH (the present folder) is in. Your checkout stays as it is, no hook runs
and nothing is overwritten: look at it, then merge it. A patch has the same, and
fits what your checkout was when it was taken along.

Examples:
  banger vm workspace export web                 branch banger/web
  git diff HEAD...banger/web; git merge banger/web
  banger vm workspace export web --patch - | git apply"""

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
        Command(
            "export",
            "workspace:export",
            "Bring back what changed there, as a branch or a patch.",
            _EXPORT,
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
            "[PATH] [-- COMMAND...]",
        ),
        Command(
            "exec",
            "run:exec_",
            "Run a command or a shell in a VM that runs.",
            _EXEC,
            "NAME [-- COMMAND...]",
        ),
        Command(
            "ssh",
            "ssh:ssh",
            "Log into a VM with ssh, or run a command.",
            _SSH,
            "NAME [SSH-OPTIONS] [-- COMMAND...]",
        ),
        Command("cp", "cp:cp", "Copy files and folders to and from a VM that runs.", _CP, "SRC DST"),
        Command("create", "vm:create", "Make a VM without starting it.", _CREATE),
        Command("start", "vm:start", "Start VMs, and wait until their guests answer.", _START),
        Command("stop", "vm:stop", "Have VMs power off; end those that do not in time.", _STOP),
        Command("restart", "vm:restart", "Stop VMs and start them again.", _RESTART),
        Command("kill", "vm:kill", "End VMs at once, as by pulling the plug.", _KILL),
        Command("pause", "vm:pause", "Freeze VMs where they are.", _PAUSE),
        Command("resume", "vm:resume", "Let paused VMs go on.", _RESUME),
        Command("delete", "vm:delete", "Remove VMs with their disks, also those that run.", _DELETE),
        Command("list", "vm:list_", "List your VMs.", _LIST),
        Command("show", "vm:show", "Show all about one VM.", _SHOW),
        WORKSPACE,
        Command("logs", "logs:logs", "Show a VM's console.", _LOGS),
    ),
    _VM,
)

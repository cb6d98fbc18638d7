"""`banger job …`, and the commands of one word."""

from banger.cli.help.shape import Command, Group

_COMPLETION = """\
Names of VMs, images, kernels, caches and branches are looked up as you type.
`make install` puts the scripts where bash, zsh and fish look by themselves.
Otherwise, once, into a folder that is there:

Examples:
  banger completion bash > ~/.local/share/bash-completion/completions/banger
  banger completion zsh > ~/.zfunc/_banger     with ~/.zfunc in fpath
  banger completion fish > ~/.config/fish/completions/banger.fish
  banger completion powershell | Out-String | Invoke-Expression     in $PROFILE"""

_JOBS = """\
Examples:
  banger job list"""

_CANCEL = """\
Examples:
  banger job cancel 12     the number is in `banger job list`"""

_DOCTOR = """\
Each line that is not ok says what to do. Exit status 1: the machine is not fit.

Examples:
  banger doctor
  banger doctor --json | jq '.[] | select(.state != "ok")'"""

_VERSION = """\
Examples:
  banger version"""

_SSH_CONFIG = """\
Nothing is written to ~/.ssh/config unless you say --install; that puts a marked
block on its top, and --uninstall leaves the file as it was, to the byte.

Examples:
  banger ssh-config
  banger ssh-config --install"""

JOB = Group(
    "job",
    "Look at long work, and cancel it.",
    (
        Command("list", "system:jobs", "List what is under way, or ended within the last minute.", _JOBS),
        Command("cancel", "system:cancel", "Cancel a job; what it had made so far is removed.", _CANCEL),
    ),
)

WORDS = Group(
    "",
    "",
    (
        Command("doctor", "system:doctor", "Check whether this machine is fit for VMs.", _DOCTOR),
        Command("version", "system:version", "Show the versions of client and service.", _VERSION),
        Command(
            "ssh-config",
            "ssh:ssh_config",
            "Have plain `ssh NAME.vm`, scp and rsync know the VMs.",
            _SSH_CONFIG,
        ),
        Command("completion", "system:completion", "Print a completion script for your shell.", _COMPLETION),
    ),
)

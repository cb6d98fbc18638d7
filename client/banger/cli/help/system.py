"""`banger job …`, and the commands of one word."""

from banger.cli.help.shape import Command, Group

_COMPLETION = """\
Names of VMs, images, kernels, caches and branches are looked up as you type.
`make install` puts the scripts where bash, zsh and fish look by themselves.
Otherwise, once:

  bash: banger completion bash > ~/.local/share/bash-completion/completions/banger
  zsh:  banger completion zsh > ~/.zfunc/_banger      (with ~/.zfunc in fpath)
  fish: banger completion fish > ~/.config/fish/completions/banger.fish
  PowerShell, in $PROFILE:
        banger completion powershell | Out-String | Invoke-Expression"""

JOB = Group(
    "job",
    "Look at long work, and cancel it.",
    (
        Command("list", "system:jobs", "List what is under way, or ended within the last minute."),
        Command("cancel", "system:cancel", "Cancel a job; what it had made so far is removed."),
    ),
)

WORDS = Group(
    "",
    "",
    (
        Command("doctor", "system:doctor", "Check whether this machine is fit for VMs."),
        Command("version", "system:version", "Show the versions of client and service."),
        Command("completion", "system:completion", "Print a completion script for your shell.", _COMPLETION),
    ),
)

"""What `banger doctor` looks at on the user's side, where the service does not look."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from banger.config import settings
from banger.config.place import path as config_file
from banger.config.place import shown
from banger.errors import Failure
from banger.service import Record
from banger.ssh import block, place, userfile

# What needs a program that banger does not bring.
_PROGRAMS = {
    "git": "install git: `banger vm run FOLDER` asks it which files belong to a repository",
    "ssh": "install openssh-client for `banger vm ssh`; `banger vm exec` works without",
}
# Where a shell finds its completions without being told; ~ is the user's home.
_COMPLETIONS = {
    "bash": (
        "~/.local/share/bash-completion/completions/banger",
        "/usr/local/share/bash-completion/completions/banger",
        "/usr/share/bash-completion/completions/banger",
        "/etc/bash_completion.d/banger",
    ),
    "zsh": (
        "~/.zfunc/_banger",
        "/usr/local/share/zsh/site-functions/_banger",
        "/usr/share/zsh/vendor-completions/_banger",
        "/usr/share/zsh/site-functions/_banger",
    ),
    "fish": (
        "~/.config/fish/completions/banger.fish",
        "/usr/local/share/fish/vendor_completions.d/banger.fish",
        "/usr/share/fish/vendor_completions.d/banger.fish",
    ),
}


def checks() -> Iterator[Record]:
    """Records as the service's own: name, state (ok, warning, failed), text, hint."""
    for program, hint in _PROGRAMS.items():
        found = shutil.which(program)
        yield _check(program, "ok", found) if found else _check(program, "warning", "not on PATH", hint)
    yield _config()
    yield _ssh_config()
    if (shell := Path(os.environ.get("SHELL", "")).name) in _COMPLETIONS:
        yield _completion(shell)


def _config() -> Record:
    try:
        settings()
        file = config_file()
        return _check("config", "ok", shown(file) if file.exists() else "none, so built-in values")
    except Failure as exc:
        return _check("config", "failed", "; ".join([str(exc), *exc.details]), exc.hint)


def _ssh_config() -> Record:
    try:
        file = userfile.user_file()
        text = place.read_own(file) or b""
        there = block.split(text, str(file)).rest != text
    except Failure as exc:
        return _check("ssh-config", "warning", "; ".join([str(exc), *exc.details]), exc.hint)
    said = (
        "installed" if there else "not installed; `banger ssh-config --install` is for plain `ssh NAME.vm`"
    )
    return _check("ssh-config", "ok", said)


def _completion(shell: str) -> Record:
    home = os.environ.get("HOME", "")
    for name in _COMPLETIONS[shell]:
        file = Path(name.replace("~", home, 1))
        if file.is_file():
            return _check("completion", "ok", f"{shell}: {shown(file)}")
    return _check("completion", "ok", f"none found for {shell}; `banger completion --help` tells how")


def _check(name: str, state: str, text: str, hint: str = "") -> Record:
    return {"name": name, "state": state, "text": text, "hint": hint}

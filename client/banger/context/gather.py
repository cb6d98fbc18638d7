"""The host's half: what there is to be passed on. Runs as the user, changes nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from banger.config import Forward
from banger.context import certificates, git, proxy, zone

ALL = ("proxy", "ca", "term", "timezone", "git")

_TERMINAL = ("TERM", "COLORTERM")


@dataclass(frozen=True, slots=True)
class Context:
    """Variables for the guest's commands, and text files (path in the guest -> content) that some of them name."""

    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()  # what is left out, and why

    def variables(self, *, without_files: bool = False) -> tuple[str, ...]:
        """NAME=value; `without_files` leaves out those that name a file of ours."""
        return tuple(
            f"{name}={value}"
            for name, value in self.env.items()
            if not (without_files and value in self.files)
        )


def gather(
    wishes: Forward,
    *,
    tty: bool,
    folder: str = "",
    ours: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> Context:
    """All that `wishes` ask for and this machine has. `folder`: the repository whose git identity counts, else here."""
    env: dict[str, str] = {}
    contents: dict[str, str] = {}
    remarks: tuple[str, ...] = ()
    if wishes.proxy:
        proxies, remarks = proxy.variables(ours)
        env |= proxies
    if wishes.timezone and (name := zone.name(ours, root)):
        env["TZ"] = name
    if wishes.term and tty:
        env |= {name: ours[name] for name in _TERMINAL if ours.get(name)}
    if wishes.ca and (bundle := certificates.bundle(ours, root)):
        path = certificates.guest_path(bundle)
        contents[path] = bundle
        env |= dict.fromkeys(certificates.VARIABLES, path)
    if wishes.git:
        env |= {name: ours[name] for name in git.VARIABLES if ours.get(name)}
        if identity := git.config(folder):
            path = git.guest_path(identity)
            contents[path] = identity
            env[git.CONFIG] = path
    return Context(env, contents, remarks)

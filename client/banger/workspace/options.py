"""What of a folder is taken along, as the user asked for it."""

from dataclasses import dataclass

from banger.errors import UsageError


@dataclass(frozen=True, slots=True)
class Options:
    """Which files go into the guest, and what its git says. By default: the tracked files as they are now."""

    include_untracked: bool = False  # also files that git neither tracks nor ignores
    all_files: bool = False  # everything; the one way to take a folder that is no git repository
    branch: str = ""  # the branch that HEAD is on in the guest
    from_ref: str = ""  # the files of this commit in place of the working tree's

    def check(self) -> None:
        """Raises UsageError for what contradicts itself."""
        if self.from_ref and (self.include_untracked or self.all_files):
            flag = "--all-files" if self.all_files else "--include-untracked"
            raise UsageError(
                f"--from takes a commit's files, {flag} the working tree's",
                hint=f"leave one of the two away: --from or {flag}",
            )
        for flag, value in (("--from", self.from_ref), ("--branch", self.branch)):
            if value.startswith("-") or "\0" in value or "\n" in value:
                raise UsageError(f"{flag} {value[:80]!a}: no such name is possible")

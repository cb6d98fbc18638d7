"""Options that several commands share."""

from dataclasses import dataclass, replace
from typing import Annotated

from cyclopts import Parameter

from banger import units
from banger.cli import complete
from banger.cli.defaults import fill
from banger.errors import UsageError
from banger.progress import Progress
from banger.service import Wanted
from banger.workspace.options import Options


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Output:
    """How a command speaks."""

    json: Annotated[bool, Parameter(negative=(), help="Write JSON, also for errors.")] = False
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative=(), help="No progress, no remarks.")
    ] = False
    verbose: Annotated[
        bool,
        Parameter(
            name=["--verbose", "-v"], negative=(), help="Tell of each call of the service, with times."
        ),
    ] = False

    def progress(self, title: str) -> Progress:
        """A progress line called `title`, silent where it would disturb."""
        return Progress(title, quiet=self.quiet or self.json)


PEOPLE = Output()


VMName = Annotated[str, Parameter(completer=complete.vm, help="The VM's name.")]
MoreVMs = Annotated[str, Parameter(completer=complete.vm, help="Further ones.")]
ImageName = Annotated[str, Parameter(completer=complete.image, help="The image's name or id.")]
MoreImages = Annotated[str, Parameter(completer=complete.image, help="Further ones.")]
Folder = Annotated[str, Parameter(completer=complete.path, help="A folder here, mostly a repository.")]
CacheName = Annotated[str, Parameter(completer=complete.cache, help="The cache's name.")]
MoreCaches = Annotated[str, Parameter(completer=complete.cache, help="Further ones.")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Spec:
    """What a new VM shall be."""

    name: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Its name; without one, one is made up.")
    ] = ""
    image: Annotated[
        str,
        Parameter(allow_leading_hyphen=True, completer=complete.image, help="The image it is made from."),
    ] = ""
    kernel: Annotated[
        str, Parameter(allow_leading_hyphen=True, completer=complete.kernel, help="The kernel it boots.")
    ] = ""
    vcpu: Annotated[int | None, Parameter(allow_leading_hyphen=True, help="Virtual CPUs.")] = None
    memory: Annotated[
        str, Parameter(allow_leading_hyphen=True, metavar="SIZE", help="Memory: 512M, 2G.")
    ] = ""
    disk: Annotated[
        str, Parameter(allow_leading_hyphen=True, metavar="SIZE", help="Size of its disk: 8G.")
    ] = ""
    nat: Annotated[bool | None, Parameter(help="Let it reach the network through this machine.")] = None
    cache: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            allow_leading_hyphen=True,
            completer=complete.cache_mount,
            metavar="NAME:PATH",
            help="Your disk NAME, which outlives the VM, at PATH.",
        ),
    ] = None

    def wanted(self) -> Wanted:
        """The same with sizes in bytes, as the service takes it, and with the user's config for what is left open.

        Raises UsageError, and Failure for a config that is wrong.
        """
        if self.name:
            units.check_name(self.name)
        if self.vcpu is not None and not 1 <= self.vcpu < 2**32:
            raise UsageError(f"{self.vcpu} vCPUs are not possible", hint="ask for 1 or more")
        memory = units.parse_size(self.memory, "memory size") if self.memory else None
        disk = units.parse_size(self.disk, "disk size") if self.disk else None
        wanted = Wanted(self.name, self.image, self.kernel, self.vcpu, memory, disk, self.nat)
        return fill(replace(wanted, caches=self._caches()))

    def _caches(self) -> dict[str, str]:
        """Path in the guest -> name. What names and paths are possible, the service says."""
        caches: dict[str, str] = {}
        for one in self.cache or ():
            name, colon, path = one.partition(":")
            if not name or not colon or not path:
                raise UsageError(
                    f"{one[:80]!a} is no cache", hint="write a name and a path, as in --cache go:/root/go"
                )
            if path in caches:
                raise UsageError(f"two caches at {path[:80]!a}", hint="give each a path of its own")
            caches[path] = name
        return caches


DEFAULTS = Spec()


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Files:
    """Which files of a folder go into a guest."""

    include_untracked: Annotated[
        bool, Parameter(negative=(), help="Also files that git neither tracks nor ignores.")
    ] = False
    all_files: Annotated[
        bool, Parameter(negative=(), help="Everything; the folder need be no git repository.")
    ] = False
    branch: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            completer=complete.branch,
            help="The branch that git is on in the guest, a new one.",
        ),
    ] = ""
    from_: Annotated[
        str,
        Parameter(
            name="--from",
            metavar="REF",
            allow_leading_hyphen=True,
            completer=complete.branch,
            help="Take the files of this commit, not yours.",
        ),
    ] = ""
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list what would be taken, and its size.")] = (
        False
    )
    tooling: Annotated[
        bool | None,
        Parameter(help="Have mise install the tools that the folder names."),
    ] = None

    def given(self) -> tuple[str, ...]:
        """The flags that are set, as written: those make sense with a folder only."""
        flags = {
            "--include-untracked": self.include_untracked,
            "--all-files": self.all_files,
            "--branch": self.branch,
            "--from": self.from_,
            "--dry-run": self.dry_run,
            "--tooling": self.tooling is True,
            "--no-tooling": self.tooling is False,
        }
        return tuple(flag for flag, value in flags.items() if value)

    def options(self) -> Options:
        return Options(self.include_untracked, self.all_files, self.branch, self.from_)


AS_TRACKED = Files()

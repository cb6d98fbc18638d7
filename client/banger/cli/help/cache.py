"""`banger cache …`."""

from banger.cli.help.shape import Command, Group

_CACHE = """\
A cache is a disk of yours that outlives the VMs which mount it; it is made when
a VM first asks for it. One VM at a time can have it.

Examples:
  banger vm run --rm --cache go:/root/go -- go build ./...
  banger cache list                      which there are, and who has them
  banger cache delete go                 the next VM gets an empty one"""

_LIST = """\
SIZE is what fits in, USED what it takes of this machine's disk.

Examples:
  banger cache list"""

_DELETE = """\
There is no way back.

Examples:
  banger cache delete go"""

CACHE = Group(
    "cache",
    "Look at cache disks, and delete them.",
    (
        Command("list", "cache:list_", "List your caches, and the VMs that have them.", _LIST),
        Command(
            "delete", "cache:delete", "Remove caches that no VM has, with all that is in them.", _DELETE
        ),
    ),
    _CACHE,
)

"""`banger image …` and `banger kernel …`."""

from banger.cli.help.shape import Command, Group

_LIST = """\
Examples:
  banger image list"""

_SHOW = """\
Examples:
  banger image show debian-bookworm"""

_PULL = """\
Without a name: the default image. Ctrl-C cancels it.

Examples:
  banger image pull
  banger image pull debian-bookworm"""

_DELETE = """\
Examples:
  banger image delete debian-trixie"""

_KERNELS = """\
Examples:
  banger kernel list"""

IMAGE = Group(
    "image",
    "Get and remove images.",
    (
        Command("list", "image:list_", "List the images on this machine.", _LIST),
        Command("show", "image:show", "Show all about one image.", _SHOW),
        Command("pull", "image:pull", "Get an image of the catalog, and the default kernel.", _PULL),
        Command("delete", "image:delete", "Remove images that no VM uses.", _DELETE),
    ),
)

KERNEL = Group(
    "kernel",
    "Look at kernels.",
    (Command("list", "image:kernels", "List the kernels on this machine.", _KERNELS),),
)

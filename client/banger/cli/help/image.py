"""`banger image …` and `banger kernel …`."""

from banger.cli.help.shape import Command, Group

_LIST = """\
Examples:
  banger image list"""

_SHOW = """\
Examples:
  banger image show debian-bookworm"""

_PULL = """\
Without a name: the default image. One of a registry is named in full, becomes
yours, and keeps that name here unless --as says another. Ctrl-C cancels it.

Examples:
  banger image pull
  banger image pull docker.io/library/alpine:3.20 --as alpine"""

_IMPORT = """\
Plain, or compressed with gzip, zstd, xz or bzip2. Ctrl-C cancels it.

Examples:
  docker save my/image | banger image import mine -
  tar -C rootfs -c . | banger image import rootfs -"""

_REGISTER = """\
Examples:
  banger image register rootfs rootfs.tar.zst"""

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
        Command("list", "image:list_", "List your images and the shared ones.", _LIST),
        Command("show", "image:show", "Show all about one image.", _SHOW),
        Command("pull", "image:pull", "Get an image of the catalog, or any of a registry.", _PULL),
        Command("import", "image:import_", "Make an image of a tar or a saved container image.", _IMPORT),
        Command("register", "image:import_", "The same as import.", _REGISTER),
        Command("delete", "image:delete", "Remove images that no VM uses.", _DELETE),
    ),
)

KERNEL = Group(
    "kernel",
    "Look at kernels.",
    (Command("list", "image:kernels", "List the kernels on this machine.", _KERNELS),),
)

"""`banger image …` and `banger kernel …`."""

from banger.cli.help.shape import Command, Group

IMAGE = Group(
    "image",
    "Get and remove images.",
    (
        Command("list", "image:list_", "List the images on this machine."),
        Command("show", "image:show", "Show all about one image."),
        Command("pull", "image:pull", "Get an image of the catalog, and the default kernel."),
        Command("delete", "image:delete", "Remove images that no VM uses."),
    ),
)

KERNEL = Group(
    "kernel",
    "Look at kernels.",
    (Command("list", "image:kernels", "List the kernels on this machine."),),
)

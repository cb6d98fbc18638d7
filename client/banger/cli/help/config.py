"""`banger config …`."""

from banger.cli.help.shape import Command, Group

_CONFIG = """\
The config is ~/.config/banger/config.toml, yours alone; `man banger.toml` and
docs/config.md tell of every key.

Examples:
  banger config edit                     with every key as a commented example
  banger config show --json              values and where each comes from
  banger config schema > schema.json     for your editor"""

CONFIG = Group(
    "config",
    "Look at your config, and change it.",
    (
        Command("show", "config:show", "Show every key with its value and where that comes from."),
        Command("edit", "config:edit", "Open your config in your editor; what is wrong is not taken."),
        Command("path", "config:path", "Print where your config is, or would be."),
        Command("schema", "config:schema", "Print the JSON Schema of your config, for editors."),
    ),
    _CONFIG,
)

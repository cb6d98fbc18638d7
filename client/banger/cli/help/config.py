"""`banger config …`."""

from banger.cli.help.shape import Command, Group

_CONFIG = """\
The config is ~/.config/banger/config.toml, yours alone; `man banger.toml` and
docs/config.md tell of every key.

Examples:
  banger config edit                     with every key as a commented example
  banger config show --json              values and where each comes from
  banger config schema > schema.json     for your editor"""

_SHOW = """\
Examples:
  banger config show
  banger config show --json | jq '.[] | select(.origin == "config")'"""

_EDIT = """\
The first time it has every key as a comment.

Examples:
  banger config edit"""

_PATH = """\
Examples:
  banger config path"""

_SCHEMA = """\
Examples:
  banger config schema > ~/.config/banger/schema.json"""

CONFIG = Group(
    "config",
    "Look at your config, and change it.",
    (
        Command("show", "config:show", "Show every key with its value and where that comes from.", _SHOW),
        Command(
            "edit", "config:edit", "Open your config in your editor; what is wrong is not taken.", _EDIT
        ),
        Command("path", "config:path", "Print where your config is, or would be.", _PATH),
        Command("schema", "config:schema", "Print the JSON Schema of your config, for editors.", _SCHEMA),
    ),
    _CONFIG,
)

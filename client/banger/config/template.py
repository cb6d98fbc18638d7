"""The text that a new config begins with: every key as a comment, made from the schema."""

import json
import textwrap
from typing import Any

from banger.config.schema import json_schema

_HEAD = """\
## Your config of banger. Every key is optional; what stands here is an example each.
## `banger config show` tells what is in effect, docs/config.md more about each key.
"""


def template() -> str:
    """TOML of comments alone. With its keys' first # taken away it is a valid config."""
    schema = json_schema()
    tables: dict[str, Any] = schema["$defs"]
    blocks = [_HEAD]
    inner = []
    for name, key in tables["Config"]["properties"].items():
        reference = key.get("$ref") or key.get("items", {}).get("$ref") or _reference(key)
        if not reference:
            blocks.append(_key(name, key))
            continue
        heading = f"# [[{name}]]" if key.get("type") == "array" else f"# [{name}]"
        table = tables[reference.rpartition("/")[2]]
        keys = [_key(inner_name, inner_key) for inner_name, inner_key in table["properties"].items()]
        inner.append("\n".join([_comment(key["description"]), heading, *keys]))
    return "\n".join([*blocks, *inner])


def _reference(key: dict[str, Any]) -> str:
    return next((str(one["$ref"]) for one in key.get("allOf", key.get("anyOf", [])) if "$ref" in one), "")


def _key(name: str, key: dict[str, Any]) -> str:
    example = json.dumps(key["examples"][0]) if key.get("examples") else "true"
    return f"{_comment(key['description'])}\n# {name} = {example}\n"


def _comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 100, initial_indent="## ", subsequent_indent="## "))

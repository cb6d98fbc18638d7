"""docs/config.md has every key of both files, with its default and what it is for, as the schemas say it."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger import config
from banger.config import Settings
from banger.config.schema import json_schema as users_schema
from bangerd.config import json_schema as admins_schema
from bangerd.config import parse

PAGE = Path(__file__).parents[2] / "docs/config.md"
ROW = "| `{key}` | {default} | {text} |"


def rows(schema: dict[str, Any], defaults: Any) -> Iterator[str]:
    """The lines of the table of keys."""
    tables = schema["$defs"]
    for name, key in tables["Config"]["properties"].items():
        text = json.dumps(key)
        inner = next((table for table in tables if f'"#/$defs/{table}"' in text), "")
        if not inner:
            yield row(name, key, getattr(defaults, name))
            continue
        prefix = f"{name}[]." if key.get("type") == "array" else f"{name}."
        for inner_name, inner_key in tables[inner]["properties"].items():
            value = "0600" if inner_name == "mode" else getattr(getattr(defaults, name), inner_name, None)
            yield row(prefix + inner_name, inner_key, value)


def row(name: str, key: dict[str, Any], default: Any) -> str:
    described = key if "description" in key else key["anyOf"][0]
    shown = "" if default is None else f"`{json.dumps(default)}`"
    return ROW.format(key=name, default=shown, text=described["description"].replace("|", r"\|"))


@pytest.mark.parametrize(
    ("heading", "schema", "defaults"),
    [("## Your config", users_schema(), Settings()), ("## The admin's config", admins_schema(), parse(""))],
    ids=["user", "admin"],
)
def test_each_key_is_in_its_table(heading: str, schema: dict[str, Any], defaults: Any) -> None:
    section = PAGE.read_text().split(heading + "\n")[1].split("\n## ")[0]
    found = [line for line in section.splitlines() if line.startswith("| `")]
    assert found == list(rows(schema, defaults))


def test_its_examples_are_right() -> None:
    blocks = [block.split("```")[0] for block in PAGE.read_text().split("```toml\n")[1:]]
    assert len(blocks) >= 3
    for block in blocks:
        if "max_vms_per_user" in block:
            parse(block)
        else:
            config.parse(block)
            assert tomllib.loads(block)

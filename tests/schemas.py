"""What commands print with --json, held against its documentation, docs/output.schema.json."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FILE = Path(__file__).parents[1] / "docs/output.schema.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
COMMANDS: dict[str, dict[str, Any]] = DOCUMENT["x-commands"]


def command_of(words: tuple[str, ...]) -> str:
    """ "vm list" of ("vm", "list", "--all"); "" if its output is not JSON of ours."""
    return next((one for one in COMMANDS if list(words[: len(one.split())]) == one.split()), "")


@cache
def _validator(name: str, *, closed: bool) -> Draft202012Validator:
    schema = COMMANDS.get(name) or {"$ref": f"#/$defs/{name}"}
    document = {**DOCUMENT, "$defs": _closed(DOCUMENT["$defs"])} if closed else DOCUMENT
    return Draft202012Validator({**schema, "$defs": document["$defs"]})


def _closed(defs: Mapping[str, Any]) -> dict[str, Any]:
    """The same with no key allowed that it does not tell of: here that is a key without documentation."""
    return {name: {"unevaluatedProperties": False, **schema} for name, schema in defs.items()}


def check(name: str, value: Any) -> None:
    """AssertionError if `value` is not what the command `name`, or an object of the kind `name`, is said to be."""
    faults = [
        f"{error.json_path}: {error.message}" for error in _validator(name, closed=True).iter_errors(value)
    ]
    assert not faults, f"{name} prints what docs/output.schema.json does not say: {faults[:5]}"


def descriptions(schema: Any, place: str = "$") -> Iterator[tuple[str, bool]]:
    """Every property of a schema, and whether it is described."""
    if isinstance(schema, dict):
        for key, one in schema.get("properties", {}).items():
            yield f"{place}.{key}", "description" in one
        for key, one in schema.items():
            yield from descriptions(one, f"{place}.{key}")

"""What each Firecracker release takes, as facts: names and types of its API, of firecracker_api.json.

The facts are those of src/firecracker/swagger/firecracker.yaml of 1.12 to 1.16 and of 1.17-dev.
"""

import json
import re
from pathlib import Path
from typing import Any

_FACTS = json.loads(Path(__file__).with_suffix("").with_name("firecracker_api.json").read_text())
RELEASES: list[str] = _FACTS["releases"]
_PLAIN = {"string": str, "integer": int, "boolean": bool, "object": dict}


def _order(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


def check_object(name: str, value: Any, release: str, where: str = "") -> None:
    """AssertionError when this release would not take `value` as its `name`."""
    where = where or name
    facts = _FACTS["objects"][name]
    assert isinstance(value, dict), f"{where} is no object"
    for key in facts["required"]:
        assert key in value, f"{where} lacks {key}"
    for key, inner in value.items():
        known = facts["properties"].get(key)
        assert known, f"{where} has {key}, which no release knows"
        assert _order(known["since"]) <= _order(release), (
            f"{where}.{key} is of {known['since']}, not {release}"
        )
        _check(known["type"], inner, release, f"{where}.{key}")


def _check(kind: Any, value: Any, release: str, where: str) -> None:
    if isinstance(kind, list):
        assert isinstance(value, list), f"{where} is no array"
        for index, inner in enumerate(value):
            _check(kind[0], inner, release, f"{where}[{index}]")
    elif kind in _PLAIN:
        assert type(value) is _PLAIN[kind], f"{where} is {value!r}, no {kind}"
    elif kind in _FACTS["objects"]:
        check_object(kind, value, release, where)
    else:
        assert value in kind.split("|"), f"{where} is {value!r}, none of {kind}"


def check_request(method: str, path: str, body: Any, release: str) -> None:
    """AssertionError when this release has no such request, or would not take its body."""
    for known, facts in _FACTS["requests"].items():
        verb, _, pattern = known.partition(" ")
        if verb == method and re.fullmatch(re.sub(r"\{\w+\}", r"\\w+", pattern), path):
            assert _order(facts["since"]) <= _order(release), (
                f"{known} is of {facts['since']}, not {release}"
            )
            assert (body is not None) == bool(facts["body"]), f"{known} with body {body!r}"
            if facts["body"]:
                check_object(facts["body"], body, release)
            return
    raise AssertionError(f"no release has {method} {path}")

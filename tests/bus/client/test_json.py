"""What --json prints is what docs/output.schema.json says; real VMs' output is checked by the guest tests."""

import json
import os
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from banger.cli.help import page
from tests import schemas
from tests.bus.client.conftest import TOP, Lab

COMMANDS = {
    " ".join(one.words[1:])
    for one in page.every()
    if not one.commands and any(entry.label.startswith("--json") for entry in one.shared)
}


def test_the_schema_is_one_and_tells_of_everything() -> None:
    Draft202012Validator.check_schema(schemas.DOCUMENT)
    assert [place for place, told in schemas.descriptions(schemas.DOCUMENT) if not told] == []


def test_every_command_has_a_schema_and_is_in_the_guide() -> None:
    assert set(schemas.COMMANDS) == COMMANDS - {"vm ssh"}  # what that prints is ssh's
    guide = (TOP / "docs/json.md").read_text()
    assert [one for one in COMMANDS if one.split()[-1] not in guide] == []


@pytest.mark.parametrize(
    "line",
    [
        "vm start web",
        "vm delete web",
        "image list",
        "image pull debian",
        "image delete debian",
        "kernel list",
        "job list",
        "doctor",
        "version",
        "vm logs web",
        "config show",
        "vm exec web --detach",
    ],
)
def test_output_is_as_the_schema_says(lab: Lab, line: str, tmp_path: Path) -> None:
    lab.set(doctor=[{"name": "kvm", "state": "ok", "text": "fine", "hint": ""}], log="one line")
    after = ["-e", f"HOME={tmp_path}", "--", "true"] if "--detach" in line else []
    words = line.split()
    done = lab.run(*words, "--json", *after)
    assert done.status == 0, done
    schemas.check(schemas.command_of(tuple(words)), json.loads(done.text))


@pytest.mark.parametrize("line", ["vm show nobody", "vm stop X", "vm list x", "frob"])
def test_errors_are_as_the_schema_says(lab: Lab, line: str) -> None:
    done = lab.run(*line.split(), "--json")
    assert done.status in (1, 2)
    assert done.text == ""
    schemas.check("error", done.error)


def test_times_and_sizes_are_plain(lab: Lab) -> None:
    lab.set(
        vms=[{"name": "web", "state": "running", "owner": os.getuid(), "memory": 2**31, "created_at": 7}]
    )
    (vm,) = lab.run("vm", "list", "--json").json
    assert (vm["memory"], vm["created_at"]) == (2**31, 7)
    assert "2 GiB" in lab.run("vm", "list").text

"""Manual pages: made from what they tell of, so that nothing is missing, and good roff."""

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import manpages
from banger.cli.help import near, page
from banger.config.schema import json_schema as user_schema
from bangerd.app import command_line
from bangerd.config import json_schema as admin_schema

PAGES = {one.file: str(one) for one in manpages.pages()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man")
    manpages.main(made)
    return made


def shown(name: str, folder: Path) -> str:
    """The page as a reader has it, on lines that never wrap."""
    argv = ["mandoc", "-T", "utf8", "-O", "width=1000", str(folder / name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return re.sub(r".\x08", "", done.stdout)


def test_there_is_a_page_for_each_group_and_each_file() -> None:
    assert {
        "banger.1",
        "banger-vm.1",
        "banger-image.1",
        "banger.toml.5",
        "bangerd.8",
        "com.thaloco.Banger1.5",
    } <= set(PAGES)


@pytest.mark.needs("mandoc", "man")
@pytest.mark.parametrize("name", PAGES)
def test_it_is_good_roff(name: str, folder: Path) -> None:
    linted = subprocess.run(
        ["mandoc", "-T", "lint", folder / name], capture_output=True, text=True, check=False
    )
    # A version that is not out has no date.
    assert [line for line in linted.stdout.splitlines() if "missing date" not in line] == []
    env = {"LC_ALL": "C.UTF-8", "MANWIDTH": "80", "PATH": "/usr/bin:/bin", "MANROFFSEQ": ""}
    argv = ["man", "--warnings", "-l", str(folder / name)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs("mandoc")
def test_every_command_and_flag_has_an_entry(folder: Path) -> None:
    for one in page.every():
        if one.commands:
            continue
        name = "banger.1" if len(one.words) == 2 else f"banger-{one.words[1]}.1"
        text = shown(name, folder)
        assert one.usage in text
        assert one.summary in re.sub(r"(?<=\S)  (?=\S)", " ", text)
        for entry in (*one.arguments, *one.options):
            assert f" {entry.label}\n" in text or f" {entry.label} " in text, f"{entry.label} of {one.words}"


@pytest.mark.needs("mandoc")
def test_every_command_of_the_tree_is_on_a_page(folder: Path) -> None:
    everything = "".join(shown(name, folder) for name in PAGES)
    assert [one for one in near.commands() if f"banger {one}" not in everything] == []


@pytest.mark.needs("mandoc")
@pytest.mark.parametrize("schema", [user_schema(), admin_schema()])
def test_every_key_of_the_configs_has_an_entry(schema: dict, folder: Path) -> None:
    text = shown("banger.toml.5", folder)
    names = {key for table in schema["$defs"].values() for key in table["properties"]}
    assert [
        name for name in names if not re.search(rf"^ +(\[\[)?(\w+\.)*{name}\b", text, re.MULTILINE)
    ] == []


@pytest.mark.needs("mandoc")
def test_every_member_of_the_contract_has_an_entry(folder: Path) -> None:
    text = shown("com.thaloco.Banger1.5", folder)
    for interface in ET.parse(manpages.CONTRACT).getroot().findall("interface"):
        assert interface.get("name", "").upper() in text
        for member in interface:
            if member.tag != "annotation":
                assert f" {manpages.signature(member)}" in text


@pytest.mark.needs("mandoc")
def test_every_flag_of_the_service_has_an_entry(folder: Path) -> None:
    text = shown("bangerd.8", folder)
    for action in command_line()._actions:
        assert action.help, action.option_strings
        assert all(flag in text for flag in action.option_strings)

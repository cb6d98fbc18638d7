"""Help of the whole tree of commands: fits a screen, tells of everything, and its examples can be typed."""

import shlex

import pytest

from banger import cli
from banger.cli import tree
from banger.cli.help import near, page, screen

PAGES = {" ".join(one.words): one for one in page.every()}
COMMANDS = {words: one for words, one in PAGES.items() if not one.commands}
PRINTS_ONE_THING = {"banger completion", "banger config path", "banger config schema"}
GROUP_ROWS, COMMAND_ROWS, COLUMNS = 24, 44, 80


def shown(one: page.Page, columns: int = COLUMNS) -> list[str]:
    return list(screen.lines(one, columns))


@pytest.mark.parametrize("words", PAGES)
def test_it_fits_a_screen(words: str) -> None:
    lines = shown(PAGES[words])
    assert len(lines) <= (COMMAND_ROWS if words in COMMANDS else GROUP_ROWS)
    assert not [line for line in lines if len(line) > COLUMNS]


@pytest.mark.parametrize("words", PAGES)
def test_nothing_is_left_unsaid(words: str) -> None:
    one = PAGES[words]
    assert one.summary.endswith(".")
    for entry in (*one.commands, *one.arguments, *one.options, *one.shared):
        assert entry.help.endswith((".", "?")), f"{entry.label}: {entry.help!r}"


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_takes_the_options_of_all(words: str) -> None:
    if words not in PRINTS_ONE_THING:
        assert COMMANDS[words].shared == PAGES["banger"].shared


def examples(one: page.Page) -> list[str]:
    """What its examples type: each line without the remark behind it, of a pipe the part that is banger's."""
    found = []
    for line in one.examples.splitlines():
        typed = line.strip().split("  ")[0]
        found += [
            part.strip() for part in typed.replace(" && ", " | ").split(" | ") if "banger " in part[:8]
        ]
    return found


@pytest.mark.parametrize("words", COMMANDS)
def test_its_examples_can_be_typed(words: str) -> None:
    typed = examples(COMMANDS[words])
    assert any(line.startswith(words) for line in typed), "no example shows the command itself"
    for line in typed:
        _program, *tokens = shlex.split(line.split(" > ")[0])
        tokens = tokens[: tokens.index("--")] if "--" in tokens else tokens
        cli._take_ssh_flags(tokens)
        tree.build().parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("typed", "meant"),
    {
        "ls": "vm list",
        "ps": "vm list",
        "run": "vm run",
        "run ./repo": "vm run",
        "vm lsit": "vm list",
        "vm ls": "vm list",
        "vm rm web": "vm delete",
        "images": "image list",
        "pull debian": "image pull",
        "image lits": "image list",
        "vms": "vm list",
        "docter": "doctor",
        "machine start web": "vm start",
        "shell web": "vm exec",
        "flibber": "",
        "config get nat": "",
        "": "",
    }.items(),
)
def test_a_near_miss_is_understood(typed: str, meant: str) -> None:
    assert near.suggestion(typed.split()) == meant


def test_a_narrow_terminal_is_no_reason_to_break_off() -> None:
    for one in PAGES.values():
        table = [
            line
            for line in shown(one, 40)
            if line not in (*one.text.splitlines(), *one.examples.splitlines())
        ]
        assert max(map(len, table[1:])) <= 40

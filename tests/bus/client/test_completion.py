"""Completion in the shells that people have: each in a terminal, with a person who presses TAB and then Enter."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bus.client.conftest import TOP, Lab, Terminal, private_bus

SHELLS = ("bash", "zsh", "fish")
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "-i"],
}
# Loaded by hand, as `banger completion --help` says, and found by the shell itself, as after `make install`.
BY_HAND = {
    "bash": "PS1='$ '; . {script}; echo READ''Y\n",
    "zsh": "PS1='%% '; autoload -U compinit; compinit -D -u; . {script}; echo READ''Y\n",
    "fish": "function fish_prompt; echo '$ '; end; source {script}; echo READ''Y\n",
}
BY_ITSELF = {
    "bash": "PS1='$ '; . /usr/share/bash-completion/bash_completion; echo READ''Y\n",
    "zsh": "PS1='%% '; fpath=({home}/share/zsh $fpath); autoload -U compinit; compinit -D -u; echo READ''Y\n",
    "fish": "function fish_prompt; echo '$ '; end; echo READ''Y\n",
}
PLACES = {
    "bash": "share/bash-completion/completions/banger",
    "zsh": "share/zsh/_banger",
    "fish": "share/fish/vendor_completions.d/banger.fish",
}

# `banger __complete` is the real one; any other call tells what it was given.
BANGER = """\
#!/bin/sh
if [ "$1" = __complete ]; then exec {python} -m banger "$@"; fi
printf 'RAN '
printf '[%s]' "$@"
echo ' END'
"""

# What is typed before TAB and Enter, and what is run then. "…" is where the shell could only list.
CASES = {
    "a command's name": ("banger vm sho", "[vm][show]"),
    "a group's name": ("banger ker", "[kernel]"),
    "a flag's name": ("banger vm create --mem", "[vm][create][--memory]"),
    "a VM": ("banger vm show d", "[vm][show][db]"),
    "a second VM": ("banger vm stop web d", "[vm][stop][web][db]"),
    "a VM named as a command": ("banger vm show lis", "[vm][show][list]"),
    "what follows such a VM": ("banger vm stop list d", "[vm][stop][list][db]"),
    "no VM of that name": ("banger vm show x", "[vm][show][x]"),
    "no third word": ("banger vm show db o", "[vm][show][db][o]"),
    "an image as a flag's value": ("banger vm create --image ubu", "[vm][create][--image][ubuntu]"),
    "the same with =": ("banger vm create --image=ubu", "[vm][create][--image=ubuntu]"),
    "a kernel": ("banger vm create --kernel deb", "[vm][create][--kernel][debian]"),
    "a cache": ("banger cache delete g", "[cache][delete][gocache]"),
    "a cache's path": ("banger vm run --cache goc", "[vm][run][--cache][gocache:]"),
    "a folder": ("banger vm workspace prepare db onl", "[vm][workspace][prepare][db][only-file]"),
    "a folder's folder": (
        "banger vm workspace prepare db ./onl",
        "[vm][workspace][prepare][db][./only-file]",
    ),
    "a branch": (
        "banger vm workspace prepare db --from fea",
        "[vm][workspace][prepare][db][--from][feature/one]",
    ),
    "a branch with =": (
        "banger vm workspace prepare db --from=fea",
        "[vm][workspace][prepare][db][--from=feature/one]",
    ),
    "a branch to harm": (
        "banger vm workspace prepare db --from har",
        "[vm][workspace][prepare][db][--from][harm'$(touch${IFS}harm)']",
    ),
    "a VM's file": ("banger vm cp only-file d", "[vm][cp][only-file][db:]"),
    "a file to copy": ("banger vm cp onl", "[vm][cp][only-file]"),
    "a file in a guest": ("banger vm cp db:onl", "[vm][cp][db:onl]"),
    "a file of variables": ("banger vm exec db --env-file onl", "[vm][exec][db][--env-file][only-file]"),
    "the same with a =": ("banger vm exec db --env-file=onl", "[vm][exec][db][--env-file=only-file]"),
    "a folder to run": ("banger vm run onl", "[vm][run][only-file]"),
    "a shell": ("banger completion po", "[completion][powershell]"),
    "a guest's words": ("banger vm exec db -- d", "[vm][exec][db][--][d]"),
    "a value nobody knows": ("banger vm create --memory ", "[vm][create][--memory]"),
}


class Person:
    """Someone at a terminal with a shell, in a folder with one file."""

    def __init__(self, shell: str, lab: Lab, home: Path, ready: dict[str, str]) -> None:
        self.shell = shell
        programs = home / "bin"
        programs.mkdir()
        (programs / "banger").write_text(BANGER.format(python=lab.argv()[0]))
        (programs / "banger").chmod(0o755)
        self.folder = home / "here"
        self.folder.mkdir()
        (self.folder / "only-file").touch()
        for words in (
            ("init", "-q", "-b", "main"),
            ("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "A"),
            ("branch", "feature/one"),
            ("branch", "harm'$(touch${IFS}harm)'"),
        ):
            subprocess.run(["git", "-C", self.folder, *words], check=True)
        script = home / PLACES[shell]
        script.parent.mkdir(parents=True)
        script.write_text(lab.run("completion", shell).text)
        env = {**lab.env, "HOME": str(home), "PATH": f"{programs}:/usr/bin:/bin", "TERM": "vt100"}
        env |= {"XDG_CONFIG_HOME": f"{home}/none", "XDG_DATA_HOME": f"{home}/none"}
        env |= {"XDG_DATA_DIRS": f"{home}/share:/usr/share"}
        self.terminal = Terminal(["env", "-C", str(self.folder), *START[shell]], env, (24, 200))
        self.terminal.type(ready[shell].format(script=script, home=home))
        self.terminal.expect("READY\r\n", timeout_s=20)

    def presses_tab(self, typed: str) -> str:
        """What is run when, after `typed`, TAB and Enter are pressed."""
        self.terminal.type(f"{typed}\t\r")
        self.terminal.expect("RAN ")
        return self.terminal.expect(" END").removesuffix(" END")

    def looks(self, typed: str, expected: str) -> str:
        """What the shell lists, up to `expected`, when TAB is pressed three times; nothing is run."""
        self.terminal.type(f"{typed}\t\t\t")
        seen = self.terminal.expect(expected)
        self.terminal.type("\x03\x15\r")
        return seen


@pytest.fixture(scope="module", params=SHELLS)
def person(
    request: pytest.FixtureRequest, shared: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp(request.param)
    shared.reset(folder / "calls")
    one = Person(request.param, shared, folder, BY_ITSELF)
    yield one
    one.terminal.close()


@pytest.fixture(scope="module", params=SHELLS)
def lonely(
    request: pytest.FixtureRequest, guest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Person]:
    """One on whose bus there is no service."""
    folder = tmp_path_factory.mktemp(f"lonely-{request.param}")
    with private_bus(folder) as address:
        one = Person(request.param, Lab(folder, address, guest), folder, BY_HAND)
        yield one
        one.terminal.close()


@pytest.fixture(autouse=True)
def world(lab: Lab) -> None:
    mine = [
        {"name": name, "state": "running", "owner": os.getuid()} for name in ("db", "list", "web", "web-2")
    ]
    lab.set(vms=[*mine, {"name": "dune", "state": "running", "owner": 12345}], images=["debian", "ubuntu"])


@pytest.mark.needs(*SHELLS)
@pytest.mark.parametrize("case", CASES)
def test_a_word_is_completed(person: Person, case: str) -> None:
    typed, ran = CASES[case]
    assert person.presses_tab(typed) == ran


@pytest.mark.needs(*SHELLS)
def test_what_several_names_share_is_put_in_and_all_are_listed(person: Person) -> None:
    assert person.presses_tab("banger vm show we") == "[vm][show][web]"
    seen = person.looks("banger vm show we", "web-2")
    assert "dune" not in seen  # another user's


@pytest.mark.needs(*SHELLS)
def test_only_what_stands_before_the_cursor_counts(person: Person) -> None:
    left = "\x1b[D" if person.shell == "fish" else "\x02"
    assert person.presses_tab(f"banger vm show d other{left * 6}") == "[vm][show][db][other]"


@pytest.mark.needs(*SHELLS)
@pytest.mark.parametrize("typed", ["banger vm show ", "banger vm show o", "banger image delete o"])
def test_neither_a_word_nor_a_file_when_the_service_is_away(lonely: Person, typed: str) -> None:
    lonely.terminal.type(f"{typed}\t\r")
    seen = lonely.terminal.expect("RAN ")
    ran = lonely.terminal.expect(" END")
    assert ran == "".join(f"[{word}]" for word in typed.split()[1:]) + " END"
    assert "rror" not in seen
    assert "only-file" not in seen


def ask(lab: Lab, *words: str, **env: str) -> list[str]:
    """What `banger __complete` answers to a shell's script."""
    line = "".join(f"{word}\x1f" for word in words)
    done = lab.run("__complete", env={"CYCLOPTS_COMPLETION_WORDS": line, **env})
    assert (done.status, done.err) == (0, "")
    begin, *answers = done.text.lstrip("\n").splitlines() or ["\x1fbegin"]
    assert begin == "\x1fbegin"
    return answers


def test_the_answers_to_powershell(lab: Lab) -> None:
    """PowerShell is in no Debian, so its script, which Cyclopts writes, is looked at, and asked for is what it asks."""
    script = lab.run("completion", "powershell").text
    assert script.isascii()
    assert "Register-ArgumentCompleter -Native -CommandName 'banger'" in script
    assert "& $program __complete" in script
    for command in ("list", "create", "completion"):
        assert f"'{command}'" in script
    assert script.count("{") == script.count("}")
    assert ask(lab, "vm", "show", "d") == ["db"]
    assert ask(lab, "vm", "create", "--no-n") == [
        "--no-nat\tNot: let it reach the network through this machine."
    ]
    assert ask(lab, "vm", "create", "--image=u") == ["\x1fprefix\t--image=", "ubuntu"]


def test_nothing_is_said_without_a_bus(lab: Lab) -> None:
    assert ask(lab, "vm", "show", "", DBUS_SYSTEM_BUS_ADDRESS="unix:path=/nonexistent") == []


def test_a_shell_never_starts_the_service_nor_waits_for_it(lab: Lab) -> None:
    lab.set(slow={"ListNames": 3})
    done = lab.run("__complete", "vm", "show", "")
    assert (done.status, done.err) == (0, "")
    assert done.took_s < 2.5
    lab.set(slow={})
    assert lab.run("vm", "list").status == 0  # it answers again


def test_a_guests_words_are_not_ours_to_know(lab: Lab) -> None:
    assert ask(lab, "vm", "exec", "db", "--", "") == []
    assert ask(lab, "vm", "exec", "db", "--", "--q") == []
    assert lab.calls() == []


def test_it_does_not_depend_on_the_config(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "banger").mkdir()
    (tmp_path / "banger/config.toml").write_text("this is no TOML")
    assert ask(lab, "vm", "show", "d", XDG_CONFIG_HOME=str(tmp_path), HOME=str(tmp_path)) == ["db"]


@pytest.mark.needs(*SHELLS)
@pytest.mark.parametrize("prefix", ["/usr", "/usr/local"])
def test_make_install_puts_the_scripts_where_this_systems_shells_look(prefix: str) -> None:
    def said(*argv: str) -> list[str]:
        env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}
        done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env)
        return done.stdout.splitlines()

    install = (TOP / "packaging/install").read_text()
    functions = re.findall(
        r"^(?:family|zsh_dir|bash_dir)\(\) \{\n.*?^\}\n", install, re.MULTILINE | re.DOTALL
    )
    assert len(functions) == 3
    zsh, bash = said("bash", "-c", f"prefix={prefix}\n{''.join(functions)}zsh_dir; bash_dir")
    assert zsh in said("zsh", "-fc", "print -l $fpath")
    loader = Path("/usr/share/bash-completion/bash_completion").read_text()
    assert "${XDG_DATA_DIRS:-/usr/local/share:/usr/share}" in loader
    assert bash in ("/usr/local/share/bash-completion/completions", "/usr/share/bash-completion/completions")
    (fish,) = re.findall(r'banger\.fish" (\S+)/banger\.fish$', install, re.MULTILINE)
    assert fish in said("fish", "-c", "printf '%s\\n' $fish_complete_path")

"""Requests that cannot be: refused with a precise sentence before anything is made."""

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "Bad_Name"), "'Bad_Name' is no valid VM name"),
        (("--name", "-x"), "'-x' is no valid VM name"),
        (("--name", "a" * 64), "is no valid VM name"),
        (("--name", "\x1b[31m"), "\\x1b[31m"),
        (("--memory", "lots"), "'lots' is no memory size"),
        (("--memory", "2048"), "2048M or 2048G"),
        (("--memory", "-1G"), "'-1G' is no memory size"),
        (("--memory", "99999999999T"), "no possible memory size"),
        (("--disk", "1.G"), "'1.G' is no disk size"),
        (("--disk", "0G"), "no possible disk size"),
        (("--vcpu", "-1"), "-1 vCPUs are not possible"),
        (("--vcpu", "0"), "0 vCPUs are not possible"),
        (("--vcpu", "99999999999"), "99999999999 vCPUs are not possible"),
        (("--vcpu", "two"), "two"),
        (("--workdir", "srv"), "no absolute path"),
        (("--env", "=x"), "no environment setting"),
        (("--bogus",), "--bogus"),
        (("no-such-folder",), "does not exist"), (("/etc/passwd",), "is no folder"),
    ],
)  # fmt: skip
def test_refused_at_once(lab, words, said):
    done = lab.run("vm", "run", *words, "--", "true")
    assert done.status == 2
    assert said in done.err
    assert "\x1b" not in done.err
    assert lab.members() == []


@pytest.mark.parametrize(
    "words",
    [
        ("vm", "run", "--"), ("vm", "nonsense"), ("nonsense",), ("vm", "stop"), ("vm", "list", "--", "x"),
        ("vm", "exec", "web", "ls", "-l"), ("vm", "exec"), ("vm", "stop", "Not-A-Name"), ("completion", "tcsh"),
    ],
)  # fmt: skip
def test_usage(lab, words):
    done = lab.run(*words)
    assert (done.status, done.text) == (2, "")
    assert done.err.startswith("banger: ")
    assert "next: " in done.err or "no valid VM name" in done.err or words[-1] in ("x", "--")
    assert lab.members() == []


def test_usage_that_is_close(lab):
    said = "banger: no command 'start'\n  next: did you mean `banger vm start`?\n"
    assert lab.run("start", "web").err == said
    assert "did you mean `banger vm stop`?" in lab.run("vm", "stox", "web").err
    assert "banger vm exec web -- ls -l" in lab.run("vm", "exec", "web", "ls", "-l").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("vm wait web --help", "no command 'vm wait'\n  next: `banger vm --help` shows all"),
        ("gc --help", "no command 'gc'\n  next: `banger --help` shows all"),
        ("config get nat", "no command 'config get'\n  next: `banger config --help` shows all"),
        ("vm workspace exports web", "did you mean `banger vm workspace export`?"),
        ("vm workspace prepare", "NAME is missing\n  next: `banger vm workspace prepare --help`"),
        ("ssh-config --remove", "next: `banger ssh-config --help`"),
        ("vm ssh -A web", "-A.\n  next: ssh's own options stand behind the name: banger vm ssh NAME -A"),
        ("vm ssh web --timeout 3s", "next: `banger vm ssh --help`"),
        ("vm exec web --tmeout 3s", "Did you mean --timeout?\n  next: `banger vm exec --help`"),
        ("vm run / make test", "next: put `--` before the command: banger vm run / -- make test"),
        ("vm run make test", "next: put `--` before the command: banger vm run -- make test"),
        ("vm run ls -la", "a command and its options stand behind `--`"),
        ("vm run --name", "--name needs a value\n"),
        ("vm run --vcpu many", "--vcpu takes a whole number, not 'many'\n"),
        ("vm --bogus", "'--bogus' is no option here\n  next: `banger vm --help`"),
    ],
)
def test_what_to_write_instead_is_told(lab, words, said):
    done = lab.run(*words.split())
    assert (done.status, done.text) == (2, "")
    assert said in done.err
    assert lab.members() == []


def test_options_of_all_commands_may_stand_before_the_command(lab):
    for words in (("--json", "vm", "list"), ("vm", "--json", "list"), ("vm", "list", "--json")):
        assert lab.run(*words).json[0]["name"] == "web"
    assert lab.run("-q", "vm", "list").err == ""
    assert lab.run("--json", "vm", "stop", "X").error["error"] == "Usage"


def test_a_group_alone_shows_its_help(lab):
    for words in (("vm",), ("vm", "workspace"), ("--json", "vm", "workspace")):
        done = lab.run(*words)
        assert done.status == 0
        assert done.text.startswith("Usage: banger vm ")


def test_usage_errors_as_json(lab):
    done = lab.run("vm", "stop", "--json", "X")
    assert (done.status, done.error["error"]) == (2, "Usage")


def test_a_command_too_large_to_pass(lab):
    words = ["x" * 100_000] * 15
    done = lab.run("vm", "run", "--rm", "--", "echo", *words)
    assert done.status == 2
    assert "and 1 MiB can be passed" in done.err
    assert lab.members() == []

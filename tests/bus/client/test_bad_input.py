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


def test_usage_errors_as_json(lab):
    done = lab.run("vm", "stop", "--json", "X")
    assert (done.status, done.error["error"]) == (2, "Usage")


def test_a_command_too_large_to_pass(lab):
    words = ["x" * 100_000] * 15
    done = lab.run("vm", "run", "--rm", "--", "echo", *words)
    assert done.status == 2
    assert "and 1 MiB can be passed" in done.err
    assert lab.members() == []

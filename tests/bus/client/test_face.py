"""How the client meets people: what --verbose, --quiet and NO_COLOR do, a pipe, and a terminal that is narrow."""

import os
import re

OWN = os.getuid()
WIDE = {
    "name": "a-name-of-forty-characters-as-some-have-it",
    "state": "running",
    "owner": OWN,
    "owner_name": "somebody",
    "image_name": "registry.example.org/library/debian:bookworm-slim",
    "vcpu": 2,
    "memory": 2 * 1024**3,
    "address": "172.16.0.200",
    "created_at": 1,
}


def test_banger_alone_tells_three_things_to_try(lab):
    said = lab.run().text
    assert re.findall(r"^  (banger .*?)  ", said, re.MULTILINE) == [
        "banger vm run", "banger vm run ./repo -- make test", "banger vm list",
    ]  # fmt: skip
    assert lab.calls() == []


def test_help_needs_no_service_and_fits(lab):
    done = lab.run("vm", "run", "--help", env={"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"})
    assert done.status == 0
    assert "banger vm run --rm" in done.text
    assert max(map(len, done.text.splitlines())) <= 80
    assert lab.run("vm").text == lab.run("vm", "--help").text == lab.run("vm", "-h").text


def test_a_reader_that_has_seen_enough_of_help_is_no_trouble(lab):
    client = lab.spawn("vm", "run", "--help")
    client.stdout.close()
    assert client.stderr.read() == b""
    client.stdin.close()
    client.stderr.close()
    assert client.wait(10) in (0, 141)


def test_verbose_tells_each_call_with_its_time_and_nothing_else_changes(lab):
    plain, told = lab.run("vm", "show", "web"), lab.run("vm", "show", "web", "--verbose")
    assert (told.status, told.text) == (0, plain.text)
    lines = told.err.splitlines()
    assert any(
        re.search(r"^ +\d+\.\d{3}  Manager\.FindVM\('web'\) of \S+: done, \d+\.\d ms$", line)
        for line in lines
    )
    assert any("VM.Describe" in line for line in lines)
    assert lab.run("vm", "show", "web", "-v", "--json").json["name"] == "web"


def test_verbose_tells_how_a_call_failed(lab):
    done = lab.run("vm", "show", "nobody", "--verbose")
    assert "Manager.FindVM('nobody')" in done.err
    assert "com.thaloco.Banger1.Error.NoSuchVM, " in done.err


def test_quiet_says_nothing_but_the_result(lab):
    lab.set(jobs={"Start": {"seconds": 2.5, "stages": ["boot"]}})
    loud, quiet = lab.run("vm", "start", "web"), lab.run("vm", "start", "web", "--quiet")
    assert "web runs" in loud.err
    assert "boot" in loud.err
    assert (quiet.status, quiet.text, quiet.err) == (0, "", "")


def test_no_colour_and_no_bar_into_a_pipe(lab):
    lab.set(jobs={"Start": {"seconds": 1.3, "stages": ["boot"]}})
    done = lab.run("vm", "start", "web", env={"TERM": "xterm"})
    assert "\x1b" not in done.err
    assert "\r" not in done.err
    assert "\x1b" not in lab.run("vm", "list").text


def test_a_table_fits_a_narrow_terminal_and_is_whole_in_a_pipe(lab, terminal):
    lab.set(vms=[WIDE])
    whole = lab.run("vm", "list").text
    assert WIDE["name"] in whole
    assert WIDE["image_name"] in whole
    for width in (100, 60, 30):
        tty = terminal("vm", "list", size=(24, width), NO_COLOR="1")
        assert tty.wait() == 0
        seen = tty.seen.decode()
        # A name is what the next command needs: it is never cut.
        assert max(map(len, seen.splitlines())) <= max(width, len(WIDE["name"]))
        assert WIDE["name"] in seen
        assert WIDE["image_name"] not in seen


def test_a_progress_line_does_not_wrap(lab, terminal):
    lab.set(
        jobs={"Start": {"seconds": 0.9, "stages": ["a stage with a name that is longer than all of this"]}}
    )
    tty = terminal("vm", "start", "web", size=(24, 40))
    assert tty.wait() == 0
    drawn = re.sub(r"\x1b\[[0-9;]*[mK]", "", tty.seen.decode())
    assert "a stage" in drawn
    assert max(map(len, re.split(r"[\r\n]", drawn))) <= 40

"""The client's words: sizes, times, names, tables, errors, and guests' text made safe."""

import inspect
import io

import pytest

from banger import errors, render, units
from banger.cli import guest
from banger.cli.command import How
from banger.cli.options import Output
from banger.errors import BusError, UsageError, describe
from banger.logfilter import LogFilter
from banger.progress import Progress
from bangerd.model import errors as service_errors
from bangerd.model.vm import check_name

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512M", GIB // 2),
        ("2G", 2 * GIB),
        ("2g", 2 * GIB),
        ("1.5G", 3 * GIB // 2),
        ("16GiB", 16 * GIB),
        ("16 GB", 16 * GIB),
        (" 1T ", 1024 * GIB),
        ("64K", 65536),
        ("100B", 100),
    ],
)
def test_sizes_that_people_write(text, value):
    assert units.parse_size(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "2048",
        "-1G",
        "1,5G",
        "1e3G",
        "0G",
        "0.0M",
        "9" * 30 + "T",
        "2 apples",
        "1.G",
        "٣G",
        "nanG",
        "2G\n3",
    ],
)
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError) as caught:
        units.parse_size(text, "memory size")
    assert caught.value.status == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (GIB, "1 GiB"), (3 * GIB // 2, "1.5 GiB"), (300 * GIB, "300 GiB"),
     (GIB // 2, "512 MiB"), (10_000 * 1024 * GIB, "10000 TiB")],
)  # fmt: skip
def test_sizes_that_people_read(value, text):
    assert units.size(value) == text


def test_times_that_people_read():
    shown = [units.duration(seconds) for seconds in (0.04, 1.44, 9.94, 9.96, 59.4, 59.6, 125, 3600, 11400)]
    assert shown == [
        "0.0 s",
        "1.4 s",
        "9.9 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 00 min",
        "3 h 10 min",
    ]
    ages = [units.age(seconds) for seconds in (-5, 0.9, 59, 60, 3599, 3600, 47 * 3600, 48 * 3600)]
    assert ages == ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d"]


@pytest.mark.parametrize(
    "name",
    ["a", "web-1", "a" * 63, "", "-a", "a-", "A", "a_b", "a" * 64, "ü", "a\n", "a.b", "\x1b[31m" * 30],
)
def test_names_are_judged_as_the_service_does(name):
    try:
        judged = check_name(name)
    except service_errors.InvalidSpec as exc:
        judged = str(exc)
        with pytest.raises(UsageError) as caught:
            units.check_name(name)
        ours = str(caught.value)
    else:
        ours = units.check_name(name)
    assert ours == judged


def test_every_error_of_the_service_has_an_exit_status():
    classes = [
        cls
        for _, cls in inspect.getmembers(service_errors, inspect.isclass)
        if issubclass(cls, service_errors.BangerError)
    ]
    codes = {cls.code for cls in classes} | {"Internal"}
    assert codes == set(errors.SERVICE_CODES)


def test_errors_have_what_why_and_next():
    told = describe(BusError("com.thaloco.Banger1.Error.VMBusy", "VM 'x' is busy; wait"), "cannot stop 'x'")
    assert (told.code, str(told), told.status) == ("VMBusy", "cannot stop 'x': VM 'x' is busy; wait", 1)
    told = describe(BusError("org.freedesktop.DBus.Error.ServiceUnknown", "The name is not activatable"))
    assert (told.code, str(told)) == ("ServiceUnknown", "the banger service is not running")
    assert "systemctl" in told.hint
    told = describe(BusError("org.example.Strange", "what"), "cannot")
    assert (told.code, str(told), told.status) == ("org.example.Strange", "cannot: what", 1)


def test_errors_are_one_safe_line(capsys):
    render.failure(errors.Failure("X", "a\x1b[2J\nb", why="c\x9bd", hint="e\rf"), json_wanted=False)
    assert capsys.readouterr().err == "banger: a\\x1b[2J b: c\\x9bd\n  next: e\\rf\n"


def test_tables_line_up_and_are_safe():
    out = io.StringIO()
    render.table(("NAME", "X"), [("a", "1"), ("longer\u202e", "2\n3")], out=out)
    assert out.getvalue() == "NAME          X\na             1\nlonger\\u202e  2 3\n"


@pytest.mark.parametrize(
    ("widths", "room", "fit"),
    [
        ((4, 7, 9), 80, [4, 7, 9]),
        ((15, 20, 12, 8, 30), 80, [15, 20, 12, 8, 17]),  # text at the end gives way first
        ((15, 20, 12, 8, 30), 60, [15, 11, 11, 8, 7]),
        ((23, 37, 8), 60, [23, 25, 8]),
        ((30, 7, 7), 40, [30, 7]),  # names are typed again
        ((30, 7, 7), 10, [30]),
    ],
)
def test_what_gives_way_in_a_table(widths, room, fit):
    assert render.fitting(widths, room) == fit


def test_sentences_at_the_end_of_a_table_go_on_below(monkeypatch):
    monkeypatch.setattr(render, "columns", lambda _stream: 20)
    out = io.StringIO()
    render.table(
        ("A", "FOUND"), [("disk", "no room is left at /a/path/longer"), ("vmm", "")], wrap=True, out=out
    )
    lines = ["A     FOUND", "disk  no room is", "      left at", "      /a/path/longer", "vmm"]
    assert out.getvalue().splitlines() == lines


def test_a_name_that_is_no_text_can_be_shown_on_any_stream():
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    render.sections({"tooling": {"a\udcff": "log /root/a\udcff.log"}}, out=out)
    out.flush()
    assert out.buffer.getvalue() == b"tooling\n  a\\udcff  log /root/a\\udcff.log\n"


def feed(data: bytes, *, colours: bool = True, size: int = 7) -> str:
    shown = LogFilter(colours=colours)
    return "".join(shown.feed(data[at : at + size]) for at in range(0, len(data), size)) + shown.end()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n", "plain\n"),
        (b"no newline", "no newline\n"),
        (b"crlf\r\n", "crlf\n"),
        (b"hidden\rshown\n", "hidden\nshown\n"),
        (b"\x1b[1;31mred\x1b[0m\n", "\x1b[1;31mred\x1b[0m\x1b[0m\n"),
        (b"\x1b[2J\x1b[H\x1b[?25lx\n", "x\x1b[0m\n"),
        (b"\x1b]0;title\x07x\x1b]52;c;aGk=\x1b\\y\n", "xy\x1b[0m\n"),
        (b"\x1bPq#0\x1b\\x\x1b_hidden\x1b\\y\x1b^z\n", "xy\x1b[0m\n"),
        (b"\x1bc\x1b(0\x1b7x\x1b\n", "x\x1b[0m\n"),
        (b"\x1b]never ended\nnext\n", "\x1b[0m\nnext\n"),
        (b"a\x00\x07\x08\x7fb\tc\n", "ab\tc\n"),
        ("\x9b31mx\x85\u202ey\u2028z\n".encode(), "31mxyz\n"),
        (b"\xff\xfe\n", "\ufffd\ufffd\n"),
        ("grüße ✓\n".encode(), "grüße ✓\n"),
        (b"\x1b[31\x1b[0mm\n", "\x1b[0mm\x1b[0m\n"),
    ],
)
def test_a_log_keeps_text_and_colours_alone(data, text):
    assert feed(data) == text
    plain = feed(data, colours=False, size=1000)
    assert "\x1b" not in plain
    assert "".join(plain.split()) == "".join(text.replace("\x1b[0m", "").replace("\x1b[1;31m", "").split())


def test_a_line_that_never_ends_does_not_fill_memory():
    shown = LogFilter(colours=True)
    assert sum(len(shown.feed(b"x" * 10_000)) for _ in range(100)) > 900_000
    assert len(shown.end()) < 70_000


class FakeTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_progress_draws_a_bar_and_then_leaves_no_trace_of_short_work(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    err = FakeTerminal()
    shown = Progress("debian", err=err)
    shown.update(
        {"stage": "image: fetch\x1b[2J", "done": GIB // 2, "total": GIB, "unit": "bytes", "fraction": 0.5}
    )
    drawn = err.getvalue()
    assert "━" * 12 + "╌" * 12 + "  50%" in drawn
    assert "512 MiB of 1 GiB" in drawn
    assert "\\x1b[2J" in drawn
    shown.close(done=True)
    assert err.getvalue().endswith("\r\x1b[K")


def test_the_name_of_a_folder_does_not_act_on_the_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    err = FakeTerminal()
    shown = Progress("repo\x1b]0;title\x07", err=err)
    shown.update({"stage": "copying"})
    shown.close(done=True)
    assert "repo\\x1b]0;title\\x07" in err.getvalue()
    assert "\x1b]0" not in err.getvalue()


def test_quiet_progress_says_nothing():
    err = FakeTerminal()
    shown = Progress("x", quiet=True, err=err)
    shown.update({"stage": "a", "fraction": 0.1})
    shown.say("hm")
    shown.close(done=True)
    assert err.getvalue() == ""


QUOTING = "it failed; it said:\n  | one\x1b[31m\n  | two\nbanger: three"


def test_quoted_lines_of_a_log_are_lines_and_nothing_else_is(capsys):
    """What a guest says cannot pass for a line of banger's own."""
    render.failure(errors.Failure("GuestFailed", "cannot start 'x'", why=QUOTING), json_wanted=False)
    assert capsys.readouterr().err == (
        "banger: cannot start 'x': it failed; it said:\n  | one\\x1b[31m\n  | two banger: three\n"
    )
    render.sections({"VM": {"name": "web", "error": QUOTING}})
    assert capsys.readouterr().out == (
        "VM\n  name   web\n  error  it failed; it said:\n         | one\\x1b[31m\n         | two banger: three\n"
    )


GONE = errors.Failure("GuestGone", "the guest went away", why="who knows", hint="look", status=125)


class Answers:
    """A service that says one thing of a VM after the other."""

    def __init__(self, *told):
        self.told = list(told)

    def describe_vm(self, _path):
        told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(told, errors.Failure):
            raise told
        return {"name": "web", "error": "", "ephemeral": False} | told


@pytest.mark.parametrize(
    ("told", "why", "hint"),
    [
        (
            [{"state": "failed", "error": "it panicked"}],
            "it panicked",
            "`banger vm start web` starts it again",
        ),
        ([{"state": "failed", "error": "it panicked", "ephemeral": True}], "it panicked", ""),
        (
            [{"state": "running"}, {"state": "stopping"}, {"state": "failed", "error": "late"}],
            "late",
            "`banger vm",
        ),
        ([{"state": "stopped"}], "it was powered off or stopped", "`banger vm start web`"),
        ([{"state": "running"}], "who knows", "look"),
        ([errors.Failure("NoSuchVM", "no such VM")], "who knows", "look"),
    ],
)
def test_why_a_guest_went_away_is_asked_of_the_service(monkeypatch, told, why, hint):
    def gone(*_args, **_more):
        raise GONE

    monkeypatch.setattr(guest, "_NEWS_S", 0.3)
    monkeypatch.setattr(guest.session, "run", gone)
    asked = guest.Guest(Answers(*told), "/vm", Output())
    monkeypatch.setattr(guest.Guest, "open_session", lambda _self: 0)
    planned, how = Planning(), How()
    with pytest.raises(errors.Failure, match="the guest went away") as caught:
        asked.run(planned, how)
    assert caught.value.why == why
    assert caught.value.hint.startswith(hint)
    assert (caught.value.code, caught.value.status) == ("GuestGone", 125)


class Planning:
    """A command with nothing about it."""

    timeout_s = None

    def surroundings(self, *_args, **_more):
        return ()

    def command(self, *_args, **_more):
        return None

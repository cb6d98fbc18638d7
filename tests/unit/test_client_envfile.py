"""Files of variables in docker's format, and durations."""

from pathlib import Path

import pytest

from banger import envfile, units
from banger.errors import UsageError


def test_what_docker_takes() -> None:
    text = b"""\xef\xbb\xbf# a comment
A=1
B=two words  \r
  # an indented comment
C="quoted" $HOME # no comment
D=x=y
E=
HERE
NOT_HERE
  F=indented
a.b-c=odd
A=last
L=\xff\xfe
"""
    assert envfile.parse(text, "f", {"HERE": "mine"}) == {
        "A": "last",
        "B": "two words  ",
        "C": '"quoted" $HOME # no comment',
        "D": "x=y",
        "E": "",
        "HERE": "mine",
        "F": "indented",
        "a.b-c": "odd",
        "L": "\udcff\udcfe",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"A=1\n=x\n", "f, line 2: no name before '='"),
        (b"\n\nA B=1\n", "f, line 3: 'A B' is no variable's name"),
        (b"A=1\0\n", "f, line 1: a NUL byte"),
        (b"\x1b[31m\x00=1", "f, line 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: bytes, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        envfile.parse(text, "f", {})
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_export_is_explained() -> None:
    with pytest.raises(UsageError) as caught:
        envfile.parse(b"export A=1", "f", {})
    assert "export" in caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        envfile.read(str(tmp_path / "none"), {})
    with pytest.raises(UsageError, match="directory"):
        envfile.read(str(tmp_path), {})
    (tmp_path / "large").write_bytes(b"A=" + b"x" * 1024 * 1024)
    with pytest.raises(UsageError, match="too large"):
        envfile.read(str(tmp_path / "large"), {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5H", 5400), ("2d", 172800), ("0.2s", 0.2)],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "0s", "-1s", "1w", "s", "1 h", "1h 30m", "366d", "9" * 400 + "s", "1e3s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError):
        units.parse_duration(text)

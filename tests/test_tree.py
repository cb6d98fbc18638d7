"""Linters as tests: the tree is well formed, typed, and its imports point the right way."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def tracked(*patterns: str) -> list[str]:
    """Files of the tree that git knows, and new ones that it does not ignore."""
    argv = ["git", "-c", f"safe.directory={TOP}", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    done = subprocess.run(argv, cwd=TOP, check=True, capture_output=True, text=True)
    return sorted(name for name in set(done.stdout.splitlines()) if (TOP / name).is_file())


def scripts() -> list[str]:
    """Every shell script, by its first line."""
    found = []
    for name in tracked():
        with (TOP / name).open("rb") as file:
            first = file.readline(64)
        if first.startswith(b"#!") and (b"bash" in first or b"/sh" in first):
            found.append(name)
    return found


def check(*argv: str | Path) -> None:
    done = subprocess.run([str(word) for word in argv], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, argv[:3]))}:\n{done.stdout}{done.stderr}"


def test_ruff_check() -> None:
    check(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_ruff_format() -> None:
    check(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.timeout(300)
def test_mypy() -> None:
    check(sys.executable, "-m", "mypy", "--no-error-summary")


def test_imports_point_inwards() -> None:
    check(BIN / "lint-imports", "--no-cache")


def test_codespell() -> None:
    check(
        BIN / "codespell",
        *tracked("*.py", "*.md", "*.c", "*.h", "*.xml", "*.toml", "*.policy", "*.rules", "*.conf"),
    )


@pytest.mark.needs("shellcheck")
def test_shellcheck() -> None:
    check("shellcheck", *scripts())


def test_xml_is_well_formed() -> None:
    names = tracked("*.xml", "*.policy", "packaging/dbus/*.conf")
    assert names
    for name in names:
        ET.parse(TOP / name)


@pytest.mark.needs("systemd-analyze")
def test_units_are_valid(tmp_path: Path) -> None:
    """`systemd-analyze verify` of the shipped units."""
    units = tracked("packaging/systemd/*.service", "packaging/systemd/*.slice", "packaging/systemd/*.socket")
    for name in units:
        text = (TOP / name).read_text(encoding="utf-8")
        # The programs are not installed here; their place is checked where they are (tests/system).
        lines = [
            line if not line.startswith("Exec") else f"{line.partition('=')[0]}=/bin/true"
            for line in text.splitlines()
        ]
        (tmp_path / Path(name).name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if units:
        check("systemd-analyze", "verify", "--man=no", *tmp_path.iterdir())


def test_modules_stay_small() -> None:
    """No Python module over 400 lines: split it along a seam."""
    sizes = {name: len((TOP / name).read_text(encoding="utf-8").splitlines()) for name in tracked("*.py")}
    assert sizes
    assert not {name: lines for name, lines in sizes.items() if lines > 400}


def test_tree_has_its_two_commands() -> None:
    for name in ("packaging/demo", "tests/run", ".ci/run"):
        path = TOP / name
        assert path.is_file(), name
        assert path.stat().st_mode & 0o111, name
        assert shutil.which("bash"), "bash"

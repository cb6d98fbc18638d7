"""The parsers of what others send: fuzzed for a moment here, for longer by `make -C service/native fuzz`; and built
for real, with all warnings as errors."""

import subprocess
from pathlib import Path

import pytest
from tests.unit.native_protocol import NATIVE, Shim

TARGETS = sorted(path.stem for path in (NATIVE / "fuzz").glob("*.c"))


@pytest.fixture(scope="session")
def fuzzers() -> Path:
    subprocess.run(["make", "-s", "-C", NATIVE, "fuzzers"], check=True, timeout=300)
    return NATIVE / "build/fuzz"


@pytest.mark.needs("clang")
@pytest.mark.parametrize("target", TARGETS)
def test_a_short_fuzz_run(fuzzers: Path, tmp_path: Path, target: str) -> None:
    options = ["-max_total_time=8", "-timeout=5", "-print_final_stats=1"]
    done = subprocess.run(
        [fuzzers / target, *options, tmp_path, NATIVE / "fuzz/corpus" / target],
        capture_output=True, text=True, check=False, timeout=50, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    runs = int(done.stderr.split("stat::number_of_executed_units:")[1].split()[0])
    assert runs > 500


def test_the_real_programs_are_static_and_small(folder: Path) -> None:
    subprocess.run(["make", "-s", "-C", NATIVE], check=True, timeout=300)
    shim, guest = NATIVE / "build/banger-shim", NATIVE / "build/banger-guest"
    for program in (shim, guest):
        head = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True, check=True)
        assert "INTERP" not in head.stdout
        assert program.stat().st_size < 1 << 20
    running = Shim(shim, folder, [guest, "--agent-fd", "3"])
    try:
        running.wait_state("ready")
        assert running.run("sh", "-c", "exit 7").exit == (0, 7)
        assert running.control("STOP 5") == "OK\n"
        assert running.wait() == 0
    finally:
        running.close()

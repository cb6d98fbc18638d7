"""The one door through which child processes are started."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from bangerd.host.process import PIPE, run, spawn
from bangerd.model.errors import StepFailed


async def test_output_and_input() -> None:
    done = await run(["sh", "-c", "cat; echo err >&2"], input=b"in", timeout_s=10)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in", b"err\n")


async def test_without_input_stdin_is_empty() -> None:
    assert (await run(["cat"], timeout_s=10)).stdout == b""


async def test_much_input_is_passed_on_whole() -> None:
    data = os.urandom(700_000)
    assert (await run(["cat"], input=data, timeout_s=10)).stdout == data


async def test_input_that_nobody_reads_is_no_error() -> None:
    assert (await run(["true"], input=bytes(5_000_000), timeout_s=10)).returncode == 0


async def test_a_failure_names_the_command_and_its_last_words() -> None:
    script = "for i in 1 2 3 4; do echo line $i >&2; done; exit 3"
    with pytest.raises(StepFailed) as failed:
        await run(["sh", "-c", script], timeout_s=10)
    assert str(failed.value).startswith("`sh -c 'for i in")
    assert str(failed.value).endswith("failed with status 3: line 2; line 3; line 4")


async def test_a_failure_can_be_an_answer() -> None:
    assert (await run(["sh", "-c", "exit 3"], timeout_s=10, check=False)).returncode == 3


async def test_control_characters_of_tools_stay_out_of_messages() -> None:
    with pytest.raises(StepFailed) as failed:
        await run(["sh", "-c", r"printf '\033]0;x\007 \377' >&2; exit 1"], timeout_s=10)
    assert str(failed.value).isprintable()


async def test_a_signal_is_named() -> None:
    with pytest.raises(StepFailed, match="was ended by SIGTERM"):
        await run(["sh", "-c", "kill $$"], timeout_s=10)


async def test_a_tool_that_is_missing() -> None:
    with pytest.raises(StepFailed, match="cannot run no-such-tool: not found"):
        await run(["no-such-tool"], timeout_s=10)


async def test_a_tool_that_may_not_be_run(tmp_path: Path) -> None:
    (tmp_path / "tool").touch(mode=0o644)
    with pytest.raises(StepFailed, match="Permission denied"):
        await run([str(tmp_path / "tool")], timeout_s=10)


async def test_too_slow_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"took longer than 0\.2 s and was killed"):
        await run(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; wait"], timeout_s=0.2)
    await gone(int((tmp_path / "pid").read_text()))


async def test_too_much_output_is_killed() -> None:
    with pytest.raises(StepFailed, match="wrote more than 1000 bytes"):
        await run(["yes"], timeout_s=10, max_output=1000)


async def test_stderr_is_kept_from_its_end() -> None:
    done = await run(["sh", "-c", "head -c 1000000 /dev/zero >&2; echo end >&2"], timeout_s=10)
    assert len(done.stderr) == 64 * 1024
    assert done.stderr.endswith(b"end\n")


async def test_a_cancelled_command_is_dead_and_reaped(tmp_path: Path) -> None:
    task = asyncio.create_task(run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"], timeout_s=60))
    pid = int(await written(tmp_path / "pid"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pid}").exists()


async def test_the_environment_is_minimal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_SECRET", "s")
    done = await run(["env"], timeout_s=10, env={"EXTRA": "1"})
    names = {line.split(b"=")[0] for line in done.stdout.splitlines()}
    assert names - {b"_"} == {b"PATH", b"LC_ALL", b"EXTRA"}


async def test_only_the_descriptors_that_were_named() -> None:
    reader, writer = os.pipe()
    other = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(other, True)
    try:
        script = f"echo passed >/proc/self/fd/{writer}; ls /proc/self/fd"
        done = await run(["sh", "-c", script], timeout_s=10, pass_fds=[writer])
        assert os.read(reader, 100) == b"passed\n"
        assert str(other) not in done.stdout.decode().split()
    finally:
        for fd in (reader, writer, other):
            os.close(fd)


async def test_the_command_is_logged_to_be_pasted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "bangerd.host.process"):
        await run(["echo", "a b", "$c"], timeout_s=10)
    assert "+ echo 'a b' '$c'" in caplog.text


async def test_many_at_once() -> None:
    done = await asyncio.gather(
        *(run(["sh", "-c", f"exit {n}"], timeout_s=20, check=False) for n in range(30))
    )
    assert [command.returncode for command in done] == list(range(30))


async def test_spawn_gives_pipes_and_a_session_of_its_own() -> None:
    child = await spawn(["sh", "-c", "ps -o sid= -p $$; read -r line; echo $line"], stdin=PIPE, stdout=PIPE)
    out, _ = await child.communicate(b"word\n")
    assert out.split() == [str(child.pid).encode(), b"word"]


async def test_spawn_of_nothing() -> None:
    with pytest.raises(StepFailed, match="not found"):
        await spawn(["no-such-tool"])


async def written(path: Path) -> str:
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    return path.read_text()


async def gone(pid: int) -> None:
    """Wait until a process that is nobody's child here has ended: killed, and reaped by whoever took it over."""
    async with asyncio.timeout(10):
        while True:
            try:
                os.kill(pid, 0)
                stat = Path(f"/proc/{pid}/stat").read_text()
            except (ProcessLookupError, FileNotFoundError):
                return
            if stat.rpartition(")")[2].split()[0] == "Z":
                return
            await asyncio.sleep(0.01)

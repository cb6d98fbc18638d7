"""The database: survives, migrates, refuses what it does not know."""

import json
import sqlite3
import stat
import subprocess
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bangerd.model.errors import LimitReached, NoSuchVM, StepFailed, VMExists
from bangerd.model.vm import VM, Desired, VMSpec
from bangerd.store.database import Database, DatabaseUnusable
from bangerd.store.records import MIGRATIONS
from bangerd.store.vms import FIELDS, VMRows

SPEC = VMSpec(
    "image",
    "kernel",
    2,
    2**29,
    2**33,
    nat=False,
    ssh_keys=("ssh-ed25519 AAAA",),
    labels={"a": "b"},
    caches={"/srv": "c"},
)
WEB = VM(
    "1" * 32,
    "11111111",
    "web",
    1000,
    "alice",
    SPEC,
    Desired.RUNNING,
    71000,
    "172.16.0.2",
    True,
    "boot",
    "bad",
    5,
    "the private key",
    "ssh-ed25519 AAAA",
)


@pytest.fixture
async def rows(tmp_path: Path) -> AsyncIterator[VMRows]:
    database = Database(tmp_path / "banger.db")
    await database.open()
    yield VMRows(database)
    await database.close()


async def test_everything_is_stored(rows: VMRows) -> None:
    await rows.insert(WEB)
    assert await rows.load() == (WEB,)
    stopped = replace(WEB, desired=Desired.STOPPED, address="")
    await rows.save(stopped)
    assert await rows.load() == (stopped,)
    await rows.delete(stopped)
    assert await rows.load() == ()
    with pytest.raises(NoSuchVM):
        await rows.save(stopped)
    assert await rows.load() == ()


async def test_names_are_unique(rows: VMRows) -> None:
    await rows.insert(WEB)
    with pytest.raises(VMExists):
        await rows.insert(replace(WEB, sid="2" * 8, id="2" * 32, uid=71001, address=""))
    assert await rows.load() == (WEB,)


async def test_uids_rest_after_use(rows: VMRows) -> None:
    assert [await rows.lease_uid(100, 3, frozenset()) for _ in range(4)] == [100, 101, 102, 100]
    assert await rows.lease_uid(100, 3, frozenset({101})) == 102
    await rows.insert(replace(WEB, uid=100))
    assert await rows.lease_uid(100, 3, frozenset({101})) == 102
    with pytest.raises(LimitReached):
        await rows.lease_uid(100, 3, frozenset({101, 102}))


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "banger.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    database = Database(path)
    with pytest.raises(DatabaseUnusable, match="schema 99.*newer banger"):
        await database.open()
    await database.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
async def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "banger.db"
    path.write_bytes(content)
    database = Database(path)
    with pytest.raises(DatabaseUnusable, match="damaged"):
        await database.open()
    await database.close()
    assert path.read_bytes() == content


async def test_opening_twice_migrates_once(tmp_path: Path) -> None:
    for _ in range(2):
        database = Database(tmp_path / "banger.db")
        await database.open()
        await database.close()


async def test_a_database_of_banger_0_1_opens(tmp_path: Path) -> None:
    """Its VMs have neither host keys nor caches."""
    path = tmp_path / "banger.db"
    spec = asdict(SPEC)
    del spec["caches"]
    old = [getattr(WEB, name) for name in FIELDS[: FIELDS.index("host_key")]]
    old[FIELDS.index("spec")] = json.dumps(spec)
    with sqlite3.connect(path) as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        names = ", ".join(FIELDS[: len(old)])
        db.execute(f"INSERT INTO vm ({names}) VALUES ({', '.join('?' * len(old))})", old)
        db.execute("PRAGMA user_version = 1")
    db.close()
    path.chmod(0o644)
    database = Database(path)
    await database.open()
    assert await VMRows(database).load() == (
        replace(WEB, spec=replace(SPEC, caches={}), host_key="", host_public=""),
    )
    assert [stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()] == [0o600] * 3
    await database.close()


async def test_what_is_stored_is_roots_alone(rows: VMRows, tmp_path: Path) -> None:
    """Guests' private keys are."""
    await rows.insert(WEB)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    assert "the private key" not in repr(WEB)


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    database = Database(tmp_path / "banger.db")
    await database.open()
    rows = VMRows(database)
    await rows.insert(WEB)
    await database.run(lambda: database._db.execute_sql("PRAGMA max_page_count = 1"))  # what it has stays
    big = replace(
        WEB, id="2" * 32, sid="2" * 8, name="big", uid=71001, address="", last_error="x" * 1_000_000
    )
    with pytest.raises(
        StepFailed, match=r"no room for banger\.db: the disk of .* is full; free some room"
    ) as caught:
        await rows.insert(big)
    assert "damaged" not in str(caught.value)
    assert await rows.load() == (WEB,)
    await database.close()


@pytest.mark.root
async def test_a_disk_that_is_full_already_is_no_damage(tmp_path: Path) -> None:
    """As bangerd meets it when it starts."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place], check=True)
    try:
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={place}/ballast", "bs=1k"], check=False, capture_output=True
        )
        full = Database(place / "banger.db")
        with pytest.raises(DatabaseUnusable, match="is full; free some room and try again"):
            await full.open()
        await full.close()
        (place / "ballast").unlink()
        database = Database(place / "banger.db")
        await database.open()
        await database.close()
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)  # an exception may hold the file open

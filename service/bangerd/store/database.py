"""The database: opened, checked and migrated; one connection, owned by one thread."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import peewee

from bangerd.model.errors import BangerError, StepFailed
from bangerd.store.records import MIGRATIONS, RECORDS

T = TypeVar("T")
SCHEMA = len(MIGRATIONS)


class DatabaseUnusable(BangerError):
    """Damaged, or written by a newer banger."""

    code = "DatabaseUnusable"


class Database:
    """`await open()` first. All work runs in one thread, so peewee's one connection is never shared."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._db = peewee.SqliteDatabase(
            str(path),
            # WAL with synchronous=FULL: a transaction that has returned survives kill -9 and loss of power.
            pragmas={"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1, "busy_timeout": 5000},
            check_same_thread=False,
        )

    async def open(self) -> None:
        """Raises DatabaseUnusable."""
        await self.run(self._open)

    async def close(self) -> None:
        await self.run(self._db.close)
        self._thread.shutdown()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in the store's thread, as one transaction where it changes anything."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except peewee.IntegrityError:
            raise
        except peewee.PeeweeException as exc:
            raise StepFailed(_told(self._path, exc)) from exc

    async def transaction(self, work: Callable[[], T]) -> T:
        """Like run(), all or nothing."""

        def whole() -> T:
            with self._db.atomic():
                return work()

        return await self.run(whole)

    def _keep_private(self) -> None:
        """Guests' private keys are in it. SQLite gives its journals the mode of the database."""
        for suffix in ("-wal", "-shm", ""):
            path = Path(f"{self._path}{suffix}")
            with suppress(FileNotFoundError):
                path.chmod(0o600)
        self._path.touch(mode=0o600)

    def _open(self) -> None:
        try:
            self._keep_private()
            self._db.connect()
            problem = self._db.execute_sql("PRAGMA quick_check(1)").fetchone()[0]
            version = self._db.execute_sql("PRAGMA user_version").fetchone()[0]
        except OSError as exc:
            raise DatabaseUnusable(
                f"{self._path} cannot be used: {exc.strerror}; see to the disk it is on and start again"
            ) from exc
        except (peewee.OperationalError, sqlite3.OperationalError) as exc:
            raise DatabaseUnusable(_told(self._path, exc)) from exc
        except (peewee.DatabaseError, sqlite3.DatabaseError) as exc:
            raise DatabaseUnusable(f"{self._path} is damaged ({exc}); {_WAY_OUT}") from exc
        if problem != "ok":
            raise DatabaseUnusable(f"{self._path} is damaged ({problem}); {_WAY_OUT}")
        if version > SCHEMA:
            raise DatabaseUnusable(
                f"{self._path} has schema {version}, this banger knows {SCHEMA}; install the newer banger again"
            )
        self._db.bind(RECORDS)
        for number in range(version, SCHEMA):
            with self._db.atomic():
                for statement in MIGRATIONS[number]:
                    self._db.execute_sql(statement)
                self._db.execute_sql(f"PRAGMA user_version = {number + 1}")


def _told(path: Path, exc: Exception) -> str:
    """SQLite's error for an admin: what is not possible, why, what to do."""
    said = str(_first(exc))
    if "disk is full" in said or "disk I/O error" in said:  # the latter where a journal finds no room
        return f"there is no room for {path.name}: the disk of {path.parent} is full; free some room and try again"
    if "readonly" in said or "unable to open" in said:
        return f"{path} cannot be written ({said}); see to its permissions and to the file system it is on"
    if "locked" in said:
        return f"{path} is locked by another program; end it and try again"
    return f"{path} cannot be used ({said}); the journal of banger.service may tell more"


def _first(exc: BaseException) -> BaseException:
    """SQLite ends a transaction that finds no room by itself, and peewee's rollback of it then fails too."""
    first, at = exc, exc.__context__
    while at is not None:
        first, at = (at if isinstance(at, sqlite3.Error) else first), at.__context__
    return first


_WAY_OUT = (
    "move it away and start again: VMs are then forgotten and what is left of them removed, images stay"
)

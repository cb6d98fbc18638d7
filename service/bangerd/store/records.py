"""Tables, as SQL by version and as peewee models. Private to this package."""

import peewee

# One entry a schema version; an entry that was released is never changed.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE vm (
             sid TEXT PRIMARY KEY NOT NULL,
             id TEXT UNIQUE NOT NULL,
             name TEXT UNIQUE NOT NULL,
             owner_uid INTEGER NOT NULL,
             owner_name TEXT NOT NULL,
             spec TEXT NOT NULL,
             desired TEXT NOT NULL,
             uid INTEGER UNIQUE NOT NULL,
             address TEXT NOT NULL,
             ephemeral INTEGER NOT NULL,
             started_boot TEXT NOT NULL,
             last_error TEXT NOT NULL,
             created_at INTEGER NOT NULL
           ) STRICT""",
        "CREATE UNIQUE INDEX vm_address ON vm (address) WHERE address <> ''",
        "CREATE TABLE counter (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) STRICT",
    ),
    (
        "ALTER TABLE vm ADD COLUMN host_key TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE vm ADD COLUMN host_public TEXT NOT NULL DEFAULT ''",
    ),
)


class VMRecord(peewee.Model):
    sid = peewee.TextField(primary_key=True)
    id = peewee.TextField()
    name = peewee.TextField()
    owner_uid = peewee.IntegerField()
    owner_name = peewee.TextField()
    spec = peewee.TextField()  # JSON
    desired = peewee.TextField()
    uid = peewee.IntegerField()
    address = peewee.TextField()
    ephemeral = peewee.BooleanField()
    started_boot = peewee.TextField()
    last_error = peewee.TextField()
    created_at = peewee.IntegerField()
    host_key = peewee.TextField()
    host_public = peewee.TextField()

    class Meta:
        table_name = "vm"


class Counter(peewee.Model):
    """`uid`: the last one leased, so that a freed uid rests as long as the range allows."""

    name = peewee.TextField(primary_key=True)
    value = peewee.IntegerField()

    class Meta:
        table_name = "counter"


RECORDS = (VMRecord, Counter)

"""Who this process is: a slot of this machine, held by a lock, and an id of its own in it."""

import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, insert, update

from shared.database import Database, new_id, stamp
from shared.jobs.recording import give_all_back
from shared.jobs.recovery import succeed_slot
from shared.tables import workers


@dataclass(frozen=True)
class Identity:
    """One worker process.

    Attributes:
        slot: `<id of the data directory>:<n>`; whoever holds its lock knows that earlier
            processes in it have ended.
        lock: Descriptor of the lock, open as long as the process lives; Python opens it
            close-on-exec.
    """

    id: UUID
    slot: str
    lock: int


def take_slot(data_dir: Path) -> Identity:
    """Take the first free slot of this data directory, for the life of the process."""
    directory = data_dir / "slots"
    directory.mkdir(parents=True, exist_ok=True)
    prefix = _directory_id(directory)
    number = 0
    while True:
        number += 1
        lock = os.open(directory / str(number), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return Identity(new_id(), f"{prefix}:{number}", lock)


def register(database: Database, identity: Identity, *, device: str, max_batch: int) -> int:
    """Enter the process, and give back at once what earlier processes of its slot had claimed."""

    def enter(connection: Connection) -> None:
        connection.execute(
            insert(workers).values(
                id=identity.id,
                slot=identity.slot,
                host=socket.gethostname(),
                pid=os.getpid(),
                device=device,
                versions=[],
                max_batch_size=max_batch,
                started_at=stamp(),
                last_seen=stamp(),
            )
        )

    database.transact(enter)
    return succeed_slot(database, identity.slot, identity.id)


def report(
    database: Database,
    identity: Identity,
    *,
    versions: list[int],
    images_per_second: float | None,
    trouble: str | None,
) -> None:
    """Say that the process lives, and what it serves."""
    database.transact(
        lambda connection: connection.execute(
            update(workers)
            .where(workers.c.id == identity.id)
            .values(
                versions=versions,
                images_per_second=images_per_second,
                trouble=trouble,
                last_seen=stamp(),
            )
        )
    )


def leave(database: Database, identity: Identity) -> None:
    """The process ends in order, and holds nothing any more."""

    def end(connection: Connection) -> None:
        give_all_back(connection, identity.id)
        connection.execute(delete(workers).where(workers.c.id == identity.id))

    database.transact(end)


def _directory_id(directory: Path) -> str:
    """A random id of this directory: host names repeat, and so do paths."""
    path = directory / "id"
    fresh = path.with_name(f"id.{uuid4().hex}")
    fresh.write_text(uuid4().hex, encoding="ascii")
    try:
        os.link(fresh, path)  # only the first of several processes succeeds
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return path.read_text(encoding="ascii")

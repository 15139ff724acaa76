"""What clients were told: the checker's own record, kept by those who heard it."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


class Violation(AssertionError):
    """A promise was broken; the message says which."""


def ensure(holds: object, *said: object) -> None:
    """Raise where a promise does not hold."""
    if not holds:
        raise Violation(" ".join(map(str, said)))


@dataclass
class Told:
    """One job or ingestion that a client was told of."""

    owner: str
    image: str
    may_be_gone: bool = False  # somebody has asked for its deletion
    is_gone: bool = False  # and was told that it is done
    may_run_again: bool = False  # somebody has asked for a retry


@dataclass
class KeyUse:
    """What an Idempotency-Key stands for."""

    made: UUID
    begun_at: float


@dataclass
class Ledger:
    """Everything that any client was told."""

    jobs: dict[UUID, Told] = field(default_factory=dict)
    ingestions: dict[UUID, Told] = field(default_factory=dict)
    keys: dict[tuple[str, str], KeyUse] = field(default_factory=dict)
    keys_hours: float = 24.0

    def accepted(self, told: dict[UUID, Told], made: UUID, owner: str, image: str) -> Told:
        """A client was given an id."""
        known = told.setdefault(made, Told(owner, image))
        if (known.owner, known.image) != (owner, image):
            raise Violation(f"{made} was given for what is another's: {known} {owner} {image}")
        return known

    def keyed(self, owner: str, key: str, made: UUID, *, begun_at: float, now: float) -> None:
        """A key was answered with an id."""
        known = self.keys.get((owner, key))
        if known is None or known.made == made:
            self.keys.setdefault((owner, key), KeyUse(made, begun_at))
        elif now - known.begun_at < self.keys_hours * 3600:
            raise Violation(f"key {key} of {owner} stood for {known.made}, and now for {made}")
        else:
            self.keys[owner, key] = KeyUse(made, begun_at)


def short(value: Any) -> str:
    """An id as people tell them apart."""
    return str(value)[-12:]

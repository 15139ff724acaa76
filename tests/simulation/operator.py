"""The operator: installs, switches and removes versions of the models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select, update

from shared import models
from shared.database import stamp
from shared.errors import Unavailable
from shared.models import ModelSpec
from shared.tables import model_versions

if TYPE_CHECKING:
    from tests.simulation.world import World

MODELS = ("a", "b")
_SPEC = ModelSpec("directory", "model.keras", 8, 8, "scale", "0" * 64, 1)
_MOST_VERSIONS = 4


@dataclass
class Operator:
    """One who changes what is installed, now and then."""

    world: "World"

    def run(self) -> None:
        """Change something, and something else later."""
        world = self.world
        while True:
            world.stage.sleep(world.dice.expovariate(world.scenario.switch_rate))
            act = world.dice.choice((self._download, self._install, self._install, self._remove))
            try:
                act(world.dice.choice(MODELS))
            except Unavailable:
                continue

    def rest(self) -> None:
        """Install what is missing, so that every job can be answered or fails."""
        with self.world.database.read() as connection:
            lacking = [row.name for row in models.states(connection) if row.current_version is None]
        for name in lacking:
            self.world.database.transact(
                lambda connection, name=name: install(connection, name, "9")  # type: ignore[misc]
            )

    def _download(self, name: str) -> None:
        token = self.world.new_id()
        self.world.database.transact(
            lambda connection: models.begin_download(connection, name, token, 20.0)
        )

    def _install(self, name: str) -> None:
        version = str(self.world.dice.randint(1, _MOST_VERSIONS))
        self.world.database.transact(lambda connection: install(connection, name, version))

    def _remove(self, name: str) -> None:
        version = str(self.world.dice.randint(1, _MOST_VERSIONS))
        self.world.database.transact(lambda connection: _remove(connection, name, version))


def install(connection: Connection, name: str, version: str) -> int:
    """Install a version, or again, and make it current."""
    return models.install(connection, name, version, _SPEC, [("0", "0")])


def _remove(connection: Connection, name: str, version: str) -> None:
    """Take a version away; if it was current, the newest other one is, or none."""
    row = connection.execute(
        select(models.models).where(models.models.c.name == name).with_for_update()
    ).one()
    gone = models.version_id(connection, name, version)
    if gone is None:
        return
    connection.execute(
        update(model_versions).where(model_versions.c.id == gone).values(removed_at=stamp())
    )
    if row.current_version == gone:
        others = connection.scalars(
            select(model_versions.c.id)
            .where(
                model_versions.c.model == name,
                model_versions.c.version.is_not(None),
                model_versions.c.removed_at.is_(None),
            )
            .order_by(model_versions.c.id.desc())
        ).first()
        connection.execute(
            update(models.models).where(models.models.c.name == name).values(current_version=others)
        )

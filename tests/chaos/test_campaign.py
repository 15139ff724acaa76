"""One seed of the campaign on each database, with a handful of faults; `make chaos` runs it all."""

from pathlib import Path

import pytest

from tests.chaos.campaign.run import Size, campaign
from tests.services import BrokerServer, PostgresServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

KINDS = {
    "sqlite": ("worker killed", "web killed", "broker killed", "storage away"),
    "postgresql": ("worker ended", "background killed", "PostgreSQL killed", "bells duplicated"),
}


@pytest.mark.parametrize("database", KINDS)
def test_nothing_is_lost_or_answered_twice(
    database: str, tmp_path: Path, _broker_server: BrokerServer, _postgres_server: PostgresServer
) -> None:
    """The servers of the session are asked for only to see that there can be some."""
    size = Size(faults=4, submitters=4, short=True, kinds=KINDS[database])
    [verdict] = campaign(database, [1], size, tmp_path)
    assert verdict.violations == [], verdict.kept
    assert sorted(done.kind for done in verdict.done) == sorted(KINDS[database])
    assert verdict.jobs > len(verdict.done)

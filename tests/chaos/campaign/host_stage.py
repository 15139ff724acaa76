"""The stage with its parts on hosts of their own, between which links are cut."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

from tests.chaos.campaign.stage import Member, Stage
from tests.chaos.hosts import WEB_PORT, WORKERS, Cut, HostBroker, HostPostgres, Network

HOSTS = "hosts"  # in the place of a database's name
_HOST_OF = {"worker": WORKERS[0], "background": "web"}  # of members not called like their host


class HostStage(Stage):
    """Web and background worker on one host, two workers on others, over one storage."""

    def __init__(
        self, directory: Path, network: Network, broker: HostBroker, postgres: HostPostgres
    ) -> None:
        self._network = network
        url = postgres.create_database()
        super().__init__(directory, HOSTS, url, broker, postgres)
        self.url = network.url
        self.database_url = postgres.socket_url(url)

    def _member(self, name: str, role: str) -> Member:
        host = _HOST_OF.get(name, name)
        place = self._network.place(host)
        own = {
            "CLASSIFIER_DATA_DIR": str(self.directory / host / "data"),
            "CLASSIFIER_BIND": f"{place.address}:{WEB_PORT}",
        }
        log = self.directory / f"{name}.log"
        return Member(name, [role], self.environment | own, log, place)

    def _command_words(self, *arguments: str) -> list[str]:
        return [*self._network.place("web").words, *super()._command_words(*arguments)]

    def cuts(self, dice: Random) -> Sequence[tuple[str, Cut]]:
        """Each kind of link, both ways and one way."""
        found = []
        for end, hosts in (("worker", WORKERS), ("web", ("web",))):
            for other in ("database", "broker"):
                both = (dice.choice(hosts), other)
                found.append((f"{end} and {other} cut", Cut(self._network, *both)))
                one_way = dice.sample((dice.choice(hosts), other), 2)
                cut = Cut(self._network, *one_way, one_way=True)
                found.append((f"{end} and {other} cut one way", cut))
        return found


@contextmanager
def staged_on_hosts() -> Iterator[HostStage]:
    """Such a stage, with a network, a broker and a PostgreSQL of its own.

    Raises:
        ServiceMissing: No network namespaces are permitted here.
    """
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="campaign-hosts-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        network = stack.enter_context(closing(Network(directory)))
        broker = stack.enter_context(closing(HostBroker(network.place("broker"))))
        broker.start()
        postgres = stack.enter_context(closing(HostPostgres(network.place("database"))))
        postgres.start()
        stage = stack.enter_context(closing(HostStage(directory, network, broker, postgres)))
        stage.start()
        yield stage

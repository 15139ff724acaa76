"""Parts that are told to stop lose nothing, keep nothing, and nobody's request fails."""

import http.client
import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
from sqlalchemy import select

from shared.database import Database
from shared.tables import claims, ingestions, jobs, workers
from tests.chaos.trapped import Trap, TrappedService
from tests.functional.service import ROOT, TERMINAL, Part, distinct_image
from tests.services import free_port, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

BATCH = 8
_numbers = count(20_000)

# What systemd does with a socket unit: the socket is the third descriptor, and stays open.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "ops.cli", "web"])
"""


class HeldWeb(Part):
    """A web server whose socket somebody else holds, so that clients find it open meanwhile."""

    def __init__(self, name: str, environment: dict[str, str], log: Path) -> None:
        super().__init__(name, [], environment, log)
        host, port = environment["CLASSIFIER_BIND"].split(":")
        self._socket = socket.create_server((host, int(port)), backlog=100)

    def start(self) -> None:
        held = self._socket.fileno()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _ACTIVATE, str(held)],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                pass_fds=[held],
            )

    def close(self) -> None:
        self._socket.close()


class Replica:
    """One web server, and what a load balancer knows of it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.address = part._environment["CLASSIFIER_BIND"]
        self.url = f"http://{self.address}"
        self.ready = False
        self.in_flight = 0


class Stopping(TrappedService):
    """Two web servers, the first with a held socket; both go on until they are asked twice."""

    def __init__(self, directory: Path, url: str, **settings: Any) -> None:
        super().__init__(directory, url, max_batch_size=BATCH, drain_seconds=600, **settings)
        self.web: HeldWeb = HeldWeb("web", self.environment, directory / "web.log")
        bind = {"CLASSIFIER_BIND": f"127.0.0.1:{free_port()}"}
        second = Part("web", ["web"], self.environment | bind, directory / "web-2.log")
        self.replicas = [Replica(self.web), Replica(second)]
        self.database_url = url

    @contextmanager
    def rows(self) -> Iterator[Any]:
        database = Database(self.database_url, pool_size=1)
        with database.read() as connection:
            yield connection
        database.close()

    def close(self) -> None:
        super().close()
        self.replicas[1].part.kill()
        self.web.close()


class SlowImages(http.server.ThreadingHTTPServer):
    """A host of images; from the second on they come only when it is told so."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _SlowAnswer)
        self.address = f"127.0.0.1:{self.server_port}"

    def addresses(self, number: int) -> str:
        return "\n".join(f"http://{self.address}/{n}.png" for n in range(number))


class _SlowAnswer(http.server.BaseHTTPRequestHandler):
    server: SlowImages

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        number = int(self.path.strip("/").removesuffix(".png"))
        if number:
            self.server.goes_on.wait(100)
        body = distinct_image(30_000 + number)
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # who asked has been stopped meanwhile
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def slow_images() -> Iterator[SlowImages]:
    with SlowImages() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.goes_on.set()
        server.shutdown()


@pytest.fixture(scope="module")
def service(
    stack_name: str,
    make_stack: Callable[[str, Path], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    slow_images: SlowImages,
) -> Iterator[Stopping]:
    """One service for all; each test leaves its parts running."""
    directory = tmp_path_factory.mktemp("stops")
    stack = make_stack(stack_name, directory)
    url = stack.pop("database_url")
    service = Stopping(directory, url, source_hosts=slow_images.address, **stack)
    try:
        service.start(*(replica.part for replica in service.replicas), service.worker)
        yield service
    finally:
        service.close()


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=60).ok
    except requests.ConnectionError:
        return False


def refuses(url: str) -> bool:
    try:
        requests.get(f"{url}/healthz", timeout=60)
    except requests.ConnectionError:
        return True
    return False


def send_later(connection: http.client.HTTPConnection, body: bytes, sent: int) -> None:
    """Begin an upload of an image, of which only a part is sent yet."""
    connection.putrequest("POST", "/v1/jobs?model=digits")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:sent])


@pytest.mark.stack("sqlite+local")
def test_web_answers_what_it_has_begun(service: Stopping) -> None:
    replica = service.replicas[1]
    wait_until(lambda: is_ready(replica.url), seconds=90, what="the second web server")
    service.worker.stop()
    job = service.submit(distinct_image(next(_numbers)))
    slow, waiting, idle = (
        http.client.HTTPConnection(replica.address, timeout=90) for _ in range(3)
    )
    for connection in (slow, waiting, idle):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        assert answer.headers["Connection"] == "keep-alive"
    picture = distinct_image(next(_numbers))
    send_later(slow, picture, 100)
    waiting.request("GET", job["links"]["self"], headers={"Prefer": "wait=60"})

    replica.part.signal(signal.SIGTERM)
    wait_until(lambda: not is_ready(replica.url), seconds=90, what="a word to the load balancer")
    # It serves on, and lets go of connections one by one.
    taken = requests.post(
        f"{replica.url}/v1/jobs?model=digits",
        data=distinct_image(next(_numbers)),
        headers={"Content-Type": "image/png"},
        timeout=90,
    )
    assert (taken.status_code, taken.headers["Connection"]) == (202, "close")
    idle.request("GET", "/healthz")
    answer = idle.getresponse()
    answer.read()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")

    replica.part.signal(signal.SIGTERM)
    wait_until(lambda: refuses(replica.url), seconds=90, what="the end of its socket")
    answered = waiting.getresponse()  # earlier than asked for
    assert (answered.status, b'"queued"' in answered.read()) == (200, True)
    slow.send(picture[100:])
    accepted = slow.getresponse()
    assert accepted.status == 202
    last = json.loads(accepted.read())
    for connection in (slow, waiting, idle):
        connection.close()
    assert replica.part.stop() == 0
    service.worker.start()
    replica.part.start()
    service.wait([job["id"], taken.json()["id"], last["id"]])


@pytest.mark.stack("sqlite+local")
def test_a_worker_records_its_pass_and_gives_the_others_back(service: Stopping) -> None:
    service.worker.stop()
    ids = [service.submit(Trap.WAITS.picture())["id"]]
    ids += [service.submit(distinct_image(next(_numbers)))["id"] for _ in range(BATCH - 1)]
    service.worker.start()
    waits, goes_on = service.directory / "waits", service.directory / "goes on"
    wait_until(waits.exists, seconds=90, what="a pass")
    ids += [service.submit(distinct_image(next(_numbers)))["id"] for _ in range(2 * BATCH)]
    wait_until(
        lambda: len(service.jobs(status="running")) == 2 * BATCH, seconds=90, what="another claim"
    )
    given_back = len(service.worker.events("given_back"))
    service.worker.signal(signal.SIGTERM)
    wait_until(
        lambda: len(service.worker.events("given_back")) > given_back,
        seconds=90,
        what="the other batch given back",
    )
    goes_on.touch()
    assert service.worker.stop() == 0
    with service.rows() as connection:
        found = connection.execute(
            select(jobs.c.status, jobs.c.attempt).where(jobs.c.id.in_(map(UUID, ids)))
        )
        assert Counter(map(tuple, found)) == {("succeeded", 1): BATCH, ("queued", 0): 2 * BATCH}
        assert connection.execute(select(claims)).all() == []
        assert connection.execute(select(workers)).all() == []
    service.worker.start()
    ended = service.wait(ids).values()
    assert {(job["status"], job["attempt"]) for job in ended} == {("succeeded", 1)}


@pytest.mark.stack("sqlite+local")
def test_an_expander_that_stops_lets_its_ingestion_go(
    service: Stopping, slow_images: SlowImages
) -> None:
    service.background.start()
    ingestion = service.ask(
        "POST",
        "/v1/ingestions",
        status=202,
        files={"archive": ("list.txt", slow_images.addresses(5).encode(), "text/plain")},
        data={"model": "digits"},
    )["id"]
    wait_until(lambda: "/1.png" in slow_images.asked, seconds=90, what="an expansion under way")
    assert service.background.stop() == 0
    with service.rows() as connection:
        row = connection.execute(select(ingestions)).one()
        assert (row.status, row.expander_token, row.lapses) == ("running", None, 0)
    slow_images.goes_on.set()
    service.background.start()
    ended = service.wait_for_ingestion(ingestion)
    assert (ended["status"], ended["counts"]["succeeded"]) == ("succeeded", 5)


class Load:
    """Clients that submit and poll without a pause, and what went wrong with it.

    They reach the web servers as a load balancer would: by turns, those that say they are ready.
    Nothing is tried twice.
    """

    def __init__(self, replicas: list[Replica], clients: int) -> None:
        self.replicas = replicas
        self.ids: list[str] = []
        self.failures: list[str] = []
        self.only: Replica | None = None
        self._turn = count()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._use) for _ in range(clients)]
        self._threads += [threading.Thread(target=self._look, args=(r,)) for r in replicas]

    def __enter__(self) -> "Load":
        for replica in self.replicas:
            replica.ready = is_ready(replica.url)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def grows(self, number: int = 10) -> None:
        """Wait for some more jobs."""
        before = len(self.ids)
        wait_until(
            lambda: len(self.ids) >= before + number or bool(self.failures),
            seconds=90,
            what="more jobs",
        )

    def _look(self, replica: Replica) -> None:
        while not self._ended.wait(0.1):
            replica.ready = is_ready(replica.url)

    def _use(self) -> None:
        with requests.Session() as session:  # keeps its connections alive
            job: dict[str, Any] | None = None
            while not self._ended.is_set():
                if job is None:
                    job = self._ask(
                        session,
                        "POST",
                        "/v1/jobs?model=digits",
                        data=distinct_image(next(_numbers)),
                        headers={"Content-Type": "image/png"},
                    )
                    if job is not None:
                        self.ids.append(job["id"])
                else:
                    link = job["links"]["self"]
                    job = self._ask(session, "GET", link, headers={"Prefer": "wait=2"})
                    if job is not None and job["status"] in TERMINAL:
                        job = None

    def _ask(self, session: requests.Session, method: str, path: str, **how: Any) -> Any:
        with self._lock:
            ready = [self.only] if self.only else [r for r in self.replicas if r.ready]
            if not ready:
                self.failures.append("no web server is ready")
                self._ended.wait(1)
                return None
            replica = ready[next(self._turn) % len(ready)]
            replica.in_flight += 1
        try:
            answer = session.request(method, f"{replica.url}{path}", timeout=90, **how)
            if answer.status_code not in {200, 202}:
                self.failures.append(f"{method} {path}: {answer.status_code} {answer.text}")
                return None
            return answer.json()
        except requests.RequestException as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        finally:
            with self._lock:
                replica.in_flight -= 1


@pytest.mark.stack("sqlite+local")
def test_a_rolling_restart_under_load_fails_no_request_and_uses_no_attempt_up(
    service: Stopping,
) -> None:
    held, other = service.replicas
    for replica in service.replicas:
        wait_until(lambda r=replica: is_ready(r.url), seconds=90, what="web")  # type: ignore[misc]
    with Load(service.replicas, clients=3) as load:
        load.grows()
        # Behind a load balancer: each is out of its sight before it ends.
        for replica in (other, held):
            replica.part.signal(signal.SIGTERM)
            wait_until(
                lambda r=replica: not r.ready and not r.in_flight,  # type: ignore[misc]
                seconds=90,
                what="the load balancer's leave",
            )
            assert replica.part.stop() == 0
            replica.part.start()
            wait_until(lambda r=replica: r.ready, seconds=90, what="web")  # type: ignore[misc]
            load.grows()
        # Alone: who comes meanwhile waits at the socket.
        load.only = held
        load.grows()
        held.part.signal(signal.SIGTERM)
        wait_until(lambda: not held.ready, seconds=90, what="the first signal's effect")
        assert held.part.stop() == 0
        held.part.start()
        load.grows()
        load.only = None
        # The new worker first, then the old one leaves; and one that is started again.
        new = service.another_worker(2)
        new.start_and_serve()
        assert service.worker.stop() == 0
        load.grows()
        assert new.stop() == 0
        service.worker.start()
        load.grows()
    assert load.failures == []
    ended = service.wait(load.ids).values()
    assert {(job["status"], job["attempt"]) for job in ended} == {("succeeded", 1)}

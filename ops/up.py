"""`classify up`: the whole service on this machine, until Ctrl-C."""

import errno
import socket
import time
from contextlib import ExitStack

import click
import structlog

from ops import models
from ops.announcer import Announcer
from ops.broker import Broker
from ops.environment import child_environment
from ops.lock import locked
from ops.supervisor import Part, Supervisor, python_part
from shared.database import Database
from shared.errors import ServiceError
from shared.settings import Settings, variable_of
from shared.storage.opening import open_storage

_LINGER_SECONDS = 10.0  # how long the children of a killed service may still hold the address
_HEAD_START_SECONDS = 8.0

log = structlog.get_logger(__name__)


def run_up(settings: Settings) -> int:
    """Start everything, look after it, and stop it; returns the exit code.

    Raises:
        ServiceError: Another service holds the data directory or the address, or the database
            cannot be used.
    """
    with locked(settings.data_dir) as abandoned, ExitStack() as stack:
        check_address(settings, patience_seconds=_LINGER_SECONDS if abandoned else 0)
        broker = None
        if settings.broker is None:
            broker = Broker(settings.data_dir)
            stack.callback(broker.close)
        environment = child_environment(settings, broker.url if broker else settings.broker or "")
        supervisor = stack.enter_context(Supervisor())
        click.echo("Starting.")
        if broker is not None:
            _start_broker(supervisor, broker)
        database = Database(settings.database, pool_size=2)
        stack.callback(database.close)
        models.prepare(database, open_storage(settings), models.wanted(settings))
        announcer = Announcer(settings, database)
        options = ["--ends-broker", str(broker.socket)] if broker else []
        # Its stop waits for no load balancer: whoever presses Ctrl-C waits for it.
        web = environment | {variable_of("drain_seconds"): "0"}
        supervisor.start(python_part("web", web, supervisor.parent_fd))
        _wait_for_web(supervisor, announcer)
        supervisor.start(python_part("worker", environment, supervisor.parent_fd))
        supervisor.start(python_part("background", environment, supervisor.parent_fd, *options))
        announcer.start()
        code = supervisor.run()
        click.echo("Stopped.")
        return code


def check_address(settings: Settings, *, patience_seconds: float = 0) -> None:
    """See that web will be able to listen.

    Raises:
        ServiceError: It will not; says why, and what to do.
    """
    give_up = time.monotonic() + patience_seconds
    while (error := _listen_error(*settings.host_and_port)) is not None:
        if error.errno != errno.EADDRINUSE:
            raise ServiceError(f"cannot listen on {settings.bind}: {error.strerror}") from error
        if time.monotonic() >= give_up:
            raise ServiceError(
                f"the address {settings.bind} is in use by another program. Stop that one, "
                "or choose another address with --bind or CLASSIFIER_BIND."
            ) from error
        time.sleep(0.1)


def _listen_error(host: str, port: int) -> OSError | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server itself does; without it connections of a minute ago are in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _wait_for_web(supervisor: Supervisor, announcer: Announcer) -> None:
    """Let web start alone: beside a worker that loads TensorFlow it takes three times as long."""
    give_up = time.monotonic() + _HEAD_START_SECONDS
    while not (announcer.web_answers() or supervisor.asked_to_stop or time.monotonic() > give_up):
        time.sleep(0.05)


def _start_broker(supervisor: Supervisor, broker: Broker) -> None:
    part = Part("broker", broker.command, {"PATH": "/usr/bin:/bin"})
    supervisor.start(part)
    if not broker.wait_until_up(part.alive):
        # Bells are worth little: better an empty memory than no broker. The supervisor starts it.
        log.warning("broker_memory_discarded", log=str(broker.directory / "log"))
        broker.forget()

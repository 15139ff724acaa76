"""The embedded broker: on a socket only, with a memory that outlives it, never two on one file."""

import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery

from ops.broker import Broker, find_binary, shut_down
from shared.errors import ServiceError


@contextmanager
def running(broker: Broker) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(broker.command, env={}) as process:
        try:
            assert broker.wait_until_up(lambda: process.poll() is None)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def client(broker: Broker) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(broker.socket))


@pytest.mark.parametrize("name", ["data", "with space and %", "long" * 40])
def test_celery_reaches_it_wherever_the_data_lies(tmp_path: Path, name: str) -> None:
    broker = Broker(tmp_path / name)
    assert len(str(broker.socket)) < 100
    with running(broker):
        app = Celery(broker=broker.url, set_as_current=False)
        app.send_task("ring", queue="bells", ignore_result=True)
        app.close()
        with client(broker) as connection:
            assert connection.llen("bells") == 1
            assert connection.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert connection.config_get("port") == {"port": "0"}
        assert stat.S_IMODE(broker.socket.parent.stat().st_mode) == 0o700
    broker.close()
    assert not broker.socket.exists()


def test_memory_outlives_a_kill(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    with running(broker) as process, client(broker) as connection:
        connection.rpush("bells", "ring")
        time.sleep(1.2)  # the file is synced every second
        process.kill()
        process.wait()
    with running(broker), client(broker) as connection:
        assert connection.llen("bells") == 1
    broker.close()


def test_unreadable_memory_is_noticed_and_can_be_dropped(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    with running(broker), client(broker) as connection:
        connection.set("a", "b")
    for file in (broker.directory / "appendonlydir").iterdir():
        file.write_bytes(b"nonsense")
    with subprocess.Popen(broker.command, env={}) as process:
        assert not broker.wait_until_up(lambda: process.poll() is None)
    broker.forget()
    with running(broker), client(broker) as connection:
        assert connection.get("a") is None
    broker.close()


@pytest.mark.parametrize("name", ["data", "long" * 40])
def test_leftover_of_a_killed_service_is_ended(tmp_path: Path, name: str) -> None:
    left = Broker(tmp_path / name)
    with running(left) as process:
        successor = Broker(tmp_path / name)
        assert process.wait(5) == 0
    with running(successor):
        assert successor.answers()
    successor.close()
    assert not left.socket.exists()


def test_ending_one_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    shut_down(tmp_path / "no.sock")


def test_machine_without_any_broker_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServiceError, match="install redis-server or valkey-server"):
        find_binary()


def test_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "valkey-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == own

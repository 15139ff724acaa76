"""Every setting of the service; the only module that reads the environment."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigurationError

PREFIX = "CLASSIFIER_"
_ENV_FILE = ".env"
_MOST_DAYS = 36_500  # with many more, `delete_at` would lie behind the year 9999
_SECRETS = ("DATABASE_URL", "REDIS_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class Settings(BaseSettings):
    """Settings, read once at the edge of each process and passed in from there."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=_ENV_FILE, extra="ignore", frozen=True, populate_by_name=True
    )

    # Where things are
    data_dir: Path = Field(Path("data"), description="Directory of all state kept on this machine.")
    bind: str = Field("127.0.0.1:8000", description="Address of the web server, host:port.")
    database_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="SQLAlchemy URL; without it, SQLite in the data directory.",
    )
    database_timeout_seconds: float = Field(
        10,
        gt=0,
        description="Longest wait for PostgreSQL to answer a statement; half of it is the longest "
        "wait for a lock, SQLite's too.",
    )
    redis_url: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="The broker; without it, `classify up` starts one of its own.",
    )

    # Where images and models are kept
    storage_url: str | None = Field(
        None,
        description="`s3://bucket/prefix` or `file:///path`; without it, in the data directory.",
    )
    storage_timeout_seconds: float = Field(
        10, gt=0, description="Longest wait for S3 to take or give an image."
    )
    aws_endpoint_url: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_ENDPOINT_URL", "aws_endpoint_url"),
        description="Address of a storage that speaks S3's protocol; without it, AWS.",
    )
    aws_region: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_REGION", "aws_region"),
        description="Region of the bucket; without it, us-east-1.",
    )
    aws_access_key_id: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_ACCESS_KEY_ID", "aws_access_key_id"),
        description="Key of the bucket; without it, the role of the machine or container is taken.",
    )
    aws_secret_access_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key"),
        description="Secret of that key.",
    )
    aws_session_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("AWS_SESSION_TOKEN", "aws_session_token"),
        description="Token of that key, if it is a temporary one.",
    )
    aws_profile: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_PROFILE", "aws_profile"),
        description="Profile in ~/.aws whose credentials are taken; needs the package boto3.",
    )

    # What comes in
    default_model: str = Field("vgg16", description="Model of a job that names none.")
    max_image_bytes: int = Field(32 * 2**20, gt=0, description="Largest image, in bytes.")
    max_image_pixels: int = Field(64_000_000, gt=0, description="Largest image, width x height.")
    max_images_per_form: int = Field(20, gt=0, description="Images of one form on the page.")
    max_backlog: int = Field(
        100_000,
        ge=0,
        description="Jobs that may wait in one lane, those of ingestions aside, before more are "
        "refused with 503; 0: any number.",
    )
    max_queued_per_owner: int = Field(
        0,
        ge=0,
        description="Jobs of one owner that may wait, those of ingestions aside, before more are "
        "refused with 429; 0: any number.",
    )
    idempotency_hours: float = Field(24, gt=0, description="How long an Idempotency-Key is kept.")

    # Ingestions
    max_source_bytes: int = Field(
        4 * 2**30,
        gt=0,
        description="Largest archive or list that is uploaded or fetched, in bytes.",
    )
    max_images_per_upload: int = Field(
        10_000, gt=0, description="Images sent as one ingestion without an archive."
    )
    max_items: int = Field(10_000_000, gt=0, description="Most items of one ingestion.")
    max_ingestions_per_owner: int = Field(
        1000,
        ge=0,
        description="Unfinished ingestions that one owner may have before more are refused with "
        "429; 0: any number.",
    )
    max_expanded_bytes: int = Field(
        256 * 2**30, gt=0, description="Most bytes that one archive may unpack to."
    )
    max_expansion_ratio: int = Field(
        200,
        gt=1,
        description="How many times its packed size an archive, or an entry of one, may unpack to; "
        "up to 1 GiB, or 1 MiB, it always may.",
    )
    source_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Directories of this machine that a client may name as `file://` source, "
        "separated by commas; empty: none.",
    )
    source_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="`s3://bucket/prefix` (or `gs://`, `az://`) below which a client may name a "
        "source, separated by commas; empty: none.",
    )
    source_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts (`host` or `host:port`) from which addresses in a source are fetched, "
        "separated by commas; empty: none.",
    )
    source_timeout_seconds: float = Field(
        20, gt=0, description="Longest wait for a source to give something."
    )
    source_hours: float = Field(
        24, gt=0, description="How long an ingestion waits for a source that cannot be reached."
    )
    output_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="`s3://bucket/prefix` or `file:///path` below which a client may have result "
        "files written, separated by commas; empty: none.",
    )
    output_part_rows: int = Field(10_000, gt=0, description="Rows of one result file.")
    expanders: int = Field(4, gt=0, description="Ingestions expanded by one process at a time.")
    expander_limit_seconds: float = Field(
        1800,
        gt=0,
        description="Longest time in which an expander gets no further, before its process ends.",
    )
    expander_turn_seconds: float = Field(
        30, gt=0, description="After how long an ingestion makes room for one that waits."
    )

    # Web
    web_processes: int = Field(2, gt=0, description="Processes of the web server.")
    web_threads: int = Field(8, gt=1, description="Threads of each; at most half of them wait.")
    drain_seconds: float = Field(
        0,
        ge=0,
        description="How long a web server that is told to stop serves on, while `/readyz` says "
        "503 so that load balancers send requests elsewhere.",
    )
    max_wait_seconds: int = Field(60, ge=0, le=60, description="Longest `Prefer: wait`.")

    # Worker
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Models a worker serves, separated by commas; empty: all installed."
    )
    max_loaded_versions: int = Field(
        0, ge=0, description="Most model versions a worker holds; 0: as many as memory allows."
    )
    exchange_seconds: float = Field(
        60,
        gt=0,
        description="Where there is no room for two versions and both have jobs: how long one waits"
        " for the other.",
    )
    unserved_hours: float = Field(
        0,
        ge=0,
        description="How long a job waits for a worker that serves its model version before it "
        "fails; 0: for ever.",
    )
    max_batch_size: int = Field(
        8, gt=0, description="Largest batch. On a CPU more than 8 gains 2-5 % and costs latency."
    )
    gather_seconds: float = Field(
        0.1,
        ge=0,
        description="Shortest time between two claims of a lane while several jobs come at a time.",
    )
    decode_threads: int = Field(0, ge=0, description="Threads that decode images; 0: one a core.")
    lease_seconds: float = Field(60, gt=0, description="How long a claim holds without renewal.")
    renew_seconds: float = Field(15, gt=0, description="How often a worker renews its claims.")
    trial_calm_seconds: float = Field(
        2,
        ge=0,
        description="A job whose trial was cut off is tried again by a process that has served for "
        "so long already, and a third time by one that has for five times as long.",
    )
    recovery_seconds: float = Field(2, gt=0, description="Pause between two recovery rounds.")
    fetch_limit_seconds: float = Field(120, gt=0, description="Longest fetch of one batch.")
    decode_limit_seconds: float = Field(120, gt=0, description="Longest decoding of one batch.")
    pass_limit_seconds: float = Field(300, gt=0, description="Longest forward pass.")
    record_limit_seconds: float = Field(120, gt=0, description="Longest recording of one batch.")
    unreachable_hours: float = Field(
        24, gt=0, description="How long a job waits for an image that cannot be read."
    )

    # Background worker
    retention_days: float = Field(
        0,
        ge=0,
        le=_MOST_DAYS,
        allow_inf_nan=False,
        description="How many days after its end a job is kept, with its image and result, and an "
        "ingestion with all of its jobs; may be a fraction. 0: until somebody deletes it, so that "
        "nothing is lost unasked.",
    )
    sweep_seconds: float = Field(60, gt=0, description="Pause between two sweeps.")
    orphan_hours: float = Field(
        24, gt=0, description="Age at which a stored object without a row is removed."
    )
    download: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mobilenet_v2", "vgg16"),
        description="Models whose weights the background worker fetches, separated by commas.",
    )
    weights_url: str = Field(
        "https://storage.googleapis.com",
        description="Root below which pretrained weights are fetched; name a mirror here.",
    )
    download_retry_seconds: float = Field(
        600, gt=0, description="Pause before a failed download is tried again."
    )

    # Watching
    heartbeat_dir: Path | None = Field(
        None,
        description="Directory in which `worker` and `background` touch a file of their name every "
        "few seconds, for healthchecks; without it they write none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severe events that are logged."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto`: readable on a terminal, else one JSON object a line."
    )

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.absolute() / 'classifier.db'}"

    @property
    def storage(self) -> str:
        """The URL of the place of images and models."""
        return self.storage_url or (self.data_dir.absolute() / "objects").as_uri()

    @property
    def broker(self) -> str | None:
        """The broker's URL, or None where `classify up` has yet to start one."""
        return None if self.redis_url is None else self.redis_url.get_secret_value()

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The address web listens on."""
        host, _, port = self.bind.rpartition(":")
        return host.strip("[]") or "127.0.0.1", int(port)

    @field_validator(
        "models",
        "download",
        "source_roots",
        "source_prefixes",
        "source_hosts",
        "output_prefixes",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """`a, b` as a tuple."""
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("bind")
    @classmethod
    def _is_address(cls, value: str) -> str:
        """An address is `host:port`."""
        if not value.rpartition(":")[2].isdigit():
            raise ValueError("an address is host:port, for example 127.0.0.1:8000")
        return value


def load_settings(**flags: Any) -> Settings:
    """Read flags, environment and `.env`, in this order of precedence.

    Raises:
        ConfigurationError: A name is unknown or a value does not fit; all of them are named.
    """
    values = {**dotenv_values(_ENV_FILE), **os.environ}
    _refuse_unknown(values)
    secrets = {
        name.lower(): _read_secret(Path(path))
        for name in _SECRETS
        if (path := values.get(f"{name}_FILE")) and not values.get(name)
    }
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**(secrets | given))
    except ValidationError as error:
        problems = "; ".join(
            f"{variable_of(str(problem['loc'][0]))}: {problem['msg']}" for problem in error.errors()
        )
        raise ConfigurationError(problems) from error


def variable_of(setting: str) -> str:
    """The environment variable of a setting: the ecosystem's own name, where it has one."""
    field = Settings.model_fields.get(setting.lower())
    has_own = field is not None and field.validation_alias is not None
    return (setting if has_own else PREFIX + setting).upper()


def _refuse_unknown(values: dict[str, str | None]) -> None:
    """A mistyped name would otherwise be ignored silently."""
    known = {variable_of(name) for name in Settings.model_fields}
    unknown = sorted(name for name in values if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigurationError(f"unknown setting: {', '.join(unknown)}")


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"cannot read the secret file {path}: {error.strerror}") from error

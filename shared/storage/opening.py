"""The one place that opens a storage or a bucket: the setting `storage_url`, or an address."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.storage.local import LocalStorage
from shared.storage.protocol import Storage

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config, S3CredentialProvider

_CONNECT_SECONDS = 5.0
_RETRIES = 3


def open_storage(settings: Settings) -> Storage:
    """The storage of these settings. Nobody is asked yet whether it is there.

    Raises:
        ConfigurationError: The settings name no storage that there could be.
    """
    url = urlsplit(settings.storage)
    if url.scheme == "file" and url.path and url.netloc in {"", "localhost"}:
        return LocalStorage(Path(unquote(url.path)), marked=True)
    if url.scheme == "s3" and url.netloc:
        return _open_bucket(settings, url.netloc, url.path.strip("/"))
    raise ConfigurationError(
        f"CLASSIFIER_STORAGE_URL: {settings.storage} is neither s3://bucket/prefix "
        "nor file:///path."
    )


def open_store(
    settings: Settings, url: str, *, silence_seconds: float, whole_seconds: float
) -> "ObjectStore":
    """The bucket at `s3://bucket/prefix`, or `gs://` or `az://container/prefix`, as obstore has it.

    Keys and endpoint of S3 are those of our own storage; those of the others are taken from the
    environment, by obstore. `shared.storage.s3.explain` says in a sentence why it failed.

    Args:
        settings: for S3's keys and endpoint.
        url: of `shared.ingestions.addresses`; the prefix is taken as it is, not percent-decoded.
        silence_seconds: longest wait for the next bytes.
        whole_seconds: longest time of one request with all its bytes.

    Raises:
        ConfigurationError: Such a bucket cannot be opened with these settings.
    """
    from obstore.exceptions import BaseError  # noqa: PLC0415 -- see _open_bucket
    from obstore.store import AzureStore, GCSStore, S3Store  # noqa: PLC0415

    scheme, _, place = url.partition("://")
    bucket, _, prefix = place.partition("/")
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=min(silence_seconds, _CONNECT_SECONDS)),
        "read_timeout": timedelta(seconds=silence_seconds),
        "timeout": timedelta(seconds=whole_seconds),
    }
    retries: RetryConfig = {
        "max_retries": _RETRIES,
        "retry_timeout": timedelta(seconds=silence_seconds),
        "backoff": {"max_backoff": timedelta(seconds=1)},
    }
    below = prefix.strip("/") or None
    try:
        if scheme == "gs":
            return GCSStore(bucket, prefix=below, client_options=client, retry_config=retries)
        if scheme == "az":
            return AzureStore(bucket, prefix=below, client_options=client, retry_config=retries)
        config = _config(settings)
        if config.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True  # whoever writes http:// means it
        return S3Store(
            bucket,
            prefix=below,
            config=config,
            client_options=client,
            retry_config=retries,
            credential_provider=_profile(settings),
        )
    except BaseError as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigurationError(f"the bucket {url}: {reason}") from error


def _open_bucket(settings: Settings, bucket: str, prefix: str) -> Storage:
    # Loaded where it is wanted: most services keep their images in a directory.
    from shared.storage.s3 import S3Storage  # noqa: PLC0415

    return S3Storage(
        bucket,
        prefix,
        config=_config(settings),
        credentials=_profile(settings),
        timeout_seconds=settings.storage_timeout_seconds,
    )


def _config(settings: Settings) -> "S3Config":
    """What the settings say; obstore takes the rest from the environment.

    The settings have these too because they may also come from `.env` and from secret files.
    """
    endpoint = settings.aws_endpoint_url
    # An endpoint that is no URL, an empty one too, would end the process in obstore.
    if endpoint is not None and not _is_address(endpoint):
        raise ConfigurationError(
            f"AWS_ENDPOINT_URL: {endpoint!r} is not an address such as https://minio.example.com"
            ":9000. For AWS itself, leave it out."
        )
    secret, token = settings.aws_secret_access_key, settings.aws_session_token
    given = {
        "endpoint": endpoint,
        "region": settings.aws_region,
        "access_key_id": settings.aws_access_key_id,
        "secret_access_key": secret and secret.get_secret_value(),
        "session_token": token and token.get_secret_value(),
    }
    return {name: value for name, value in given.items() if value}  # type: ignore[return-value]


def _is_address(endpoint: str) -> bool:
    url = urlsplit(endpoint)
    return url.scheme in {"http", "https"} and bool(url.hostname)


def _profile(settings: Settings) -> "S3CredentialProvider | None":
    """Credentials of a profile in `~/.aws`, which only boto3 can read; keys come before it."""
    if not settings.aws_profile or settings.aws_access_key_id:
        return None
    try:
        from boto3 import Session  # type: ignore[import-untyped]  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # noqa: PLC0415
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "AWS_PROFILE needs the package boto3: install it beside the service, or give "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    try:
        return Boto3CredentialProvider(Session(profile_name=settings.aws_profile))
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"AWS_PROFILE: {error}") from error

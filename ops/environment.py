"""What a child process is told: the one place where settings become an environment again."""

import os
from pathlib import Path

from pydantic import SecretStr

from shared.settings import Settings, variable_of

_ROOT = Path(__file__).parent.parent


def child_environment(settings: Settings, broker_url: str) -> dict[str, str]:
    """Ours, with every setting as we read it, so that all parts of a service agree."""
    environment = dict(os.environ)
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            environment[variable_of(name)] = _as_text(value)
    environment["DATABASE_URL"] = settings.database
    environment["REDIS_URL"] = broker_url
    # Children run with -P, which keeps a `web/` of the current directory out of our way.
    paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, tuple):
        return ",".join(map(_as_text, value))
    return str(value)

"""A client of the service as `bench.service` needs it, safe to use from many threads."""

import io
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import requests
from PIL import Image

_TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
_REFUSALS = frozenset({429, 503})
_WAIT_SECONDS = 20


class Client:
    """Submits images to one model, and waits for jobs."""

    def __init__(self, url: str, model: str, size: int, timeout: float) -> None:
        self.refused = 0
        self._url = url.rstrip("/")
        self._model = model
        self._size = size
        self._timeout = timeout
        self._random = np.random.default_rng()  # unlike any earlier run: results are kept
        self._local = threading.local()

    def check(self) -> None:
        """Raise unless the service is ready."""
        self._session.get(f"{self._url}/readyz", timeout=10).raise_for_status()

    def new_image(self) -> bytes:
        """A PNG that the service has never seen: coarse noise, so that it stays small."""
        noise = self._random.integers(0, 256, (16, 16), np.uint8)
        file = io.BytesIO()
        scaled = Image.fromarray(noise).resize((self._size, self._size), Image.Resampling.NEAREST)
        scaled.save(file, "PNG")
        return file.getvalue()

    def submit(self, image: bytes, lane: str = "interactive") -> str:
        """The id of the accepted job; a service that is full for a moment is asked again."""
        give_up = time.monotonic() + self._timeout
        while True:
            response = self._session.post(
                f"{self._url}/v1/jobs",
                files={"image": ("noise.png", image, "image/png")},
                data={"model": self._model, "lane": lane},
                timeout=60,
            )
            if response.status_code not in _REFUSALS or time.monotonic() > give_up:
                break
            self.refused += 1
            time.sleep(float(response.headers.get("Retry-After", "1")))
        if not response.ok:
            raise requests.HTTPError(f"{response.status_code}: {response.text.strip()[:500]}")
        return str(response.json()["id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """The job in its terminal state.

        Raises:
            TimeoutError: It did not get there in time.
        """
        give_up = time.monotonic() + self._timeout
        while time.monotonic() < give_up:
            response = self._get(job_id, {"Prefer": f"wait={_WAIT_SECONDS}"})
            job: dict[str, Any] = response.json()
            if job["status"] in _TERMINAL:
                return job
            if "Preference-Applied" not in response.headers:
                time.sleep(0.05)
        raise TimeoutError(f"job {job_id} did not end within {self._timeout:g} s")

    def has_ended(self, job_id: str) -> bool:
        """Whether the job is in a terminal state now."""
        return self._get(job_id, {}).json()["status"] in _TERMINAL

    def _get(self, job_id: str, headers: dict[str, str]) -> requests.Response:
        response = self._session.get(
            f"{self._url}/v1/jobs/{job_id}", headers=headers, timeout=_WAIT_SECONDS + 60
        )
        response.raise_for_status()
        return response

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


def time_of(job: dict[str, Any], name: str) -> datetime:
    """One of the job's times, by the service's clock."""
    return datetime.fromisoformat(job[name])


def seconds_between(job: dict[str, Any], first: str, last: str) -> float:
    """The time between two of the job's times."""
    return (time_of(job, last) - time_of(job, first)) / timedelta(seconds=1)

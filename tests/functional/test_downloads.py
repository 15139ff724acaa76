"""A model's weights on their way into the running service, through every accident.

The model is a real one with its own name and address; only its weights are random.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import h5py
import pytest
import requests

from tests.functional.service import Service, distinct_image
from tests.mirror import Mirror, mirror
from tests.services import AS_INSTALLED, ROOT, BrokerServer, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.stack("sqlite+local"),
    pytest.mark.timeout(300),
]

MODEL = "mobilenet_v2"
PATH = (
    "tensorflow/keras-applications/mobilenet_v2/"
    "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
)
MAKE_WEIGHTS = """
import sys
from pathlib import Path
from ops.catalogue import DOWNLOADS
from worker.engines.weights import save_random_weights
path = Path(sys.argv[1])
path.touch()
save_random_weights(DOWNLOADS["mobilenet_v2"].spec(path), path)
"""


def weights_that_do_not_fit() -> bytes:
    """A weights file of Keras, of no such model."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        content.create_group("layers")
    return file.getvalue()


class Story:
    """The service, the mirror that it downloads from, and what can be seen from outside."""

    def __init__(self, service: Service, server: Mirror) -> None:
        self.service = service
        self.server = server

    def model(self) -> dict[str, Any]:
        answer = requests.get(f"{self.service.url}/v1/models/{MODEL}", timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait_for(self, what: str, **expected: object) -> dict[str, Any]:
        def as_expected() -> bool:
            model = self.model()
            return all(model[name] == value for name, value in expected.items())

        wait_until(as_expected, seconds=90, what=what)
        return self.model()

    def wait_for_bytes(self) -> dict[str, Any]:
        wait_until(
            lambda: ((self.model()["progress"] or {}).get("bytes") or 0) > 0,
            seconds=30,
            what="the first bytes",
        )
        return self.model()

    def submit(self, number: int) -> Any:
        return self.service.post(distinct_image(number), model=MODEL)


@pytest.fixture
def story(tmp_path: Path, stack: dict[str, Any], redis_server: BrokerServer) -> Iterator[Story]:
    weights = tmp_path / "seeded.weights.h5"
    making = subprocess.Popen(
        [sys.executable, "-c", MAKE_WEIGHTS, str(weights)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(AS_INSTALLED)},
    )
    with mirror(b"") as server:
        service = Service(
            tmp_path,
            broker_url=redis_server.url,
            download=MODEL,
            weights_url=server.url,
            download_retry_seconds=5,
            **stack,
        )
        # No model of whoever runs the tests, and no proxy of theirs.
        service.environment |= {"HOME": str(tmp_path), "no_proxy": "*"}
        try:
            server.status = 503
            service.start(service.web, service.background)
            assert making.wait(120) == 0
            server.content = weights.read_bytes()
            yield Story(service, server)
        finally:
            service.close()
            making.kill()
            making.wait()


def test_the_state_is_true_each_time_and_who_waits_is_served(story: Story) -> None:
    weights = story.server.content
    a_server_that_refuses_is_nothing_to_wait_for(story)
    first = while_it_comes_jobs_are_accepted(story)
    the_next_process_takes_up_what_a_killed_one_left_and_finds_a_wrong_file(story)
    assert story.service.job(first)["status"] == "queued"
    version = broken_off_twice_it_arrives_and_who_waited_is_served(story, weights, first)
    a_wrong_file_replaces_no_good_one(story, version)


def a_server_that_refuses_is_nothing_to_wait_for(story: Story) -> None:
    reason = f"127.0.0.1 answered 503 Service Unavailable for {story.server.url}/{PATH}."
    refused = story.wait_for("a reason", reason=reason)
    assert refused["state"] == "unavailable"
    assert "classify models import mobilenet_v2 FILE" in refused["mend"]
    assert story.submit(1).status_code == 503


def while_it_comes_jobs_are_accepted(story: Story) -> str:
    """The download stops in the middle; the id of the job that waits for it."""
    server = story.server
    server.hold, server.status = Event(), 200
    half = story.wait_for_bytes()
    assert half["state"] == "downloading"
    assert 0 < half["progress"]["bytes"] < half["progress"]["total_bytes"] == len(server.content)
    answer = story.submit(1)
    assert answer.status_code == 202
    assert answer.json()["model"] == {"name": MODEL, "version": None}
    return str(answer.json()["id"])


def the_next_process_takes_up_what_a_killed_one_left_and_finds_a_wrong_file(story: Story) -> None:
    service, server = story.service, story.server
    service.background.kill()
    partial = service.directory / "data" / "downloads" / f"{MODEL}.part"
    there = partial.stat().st_size
    assert there > 0
    server.seen.clear()
    server.content = weights_that_do_not_fit()
    assert server.hold is not None
    server.hold.set()
    server.hold = None
    service.background.start()
    wrong = story.wait_for("the wrong file to be found out", state="unavailable")
    service.background.stop()  # it would try again
    assert server.seen[0] == f"bytes={there}-"
    assert "sent cannot be used" in wrong["reason"]
    assert "is not a weights file of MobileNetV2" in wrong["reason"]
    assert wrong["current"] is None
    assert not partial.exists()
    assert story.submit(2).status_code == 503


def broken_off_twice_it_arrives_and_who_waited_is_served(
    story: Story, weights: bytes, first: str
) -> str:
    """The right file at last; its version."""
    service, server = story.service, story.server
    server.seen.clear()
    server.break_after = [4_000_000, 4_000_000]
    server.content = weights
    service.background.start()
    service.worker.start()
    version = str(story.wait_for("the model", state="ready")["current"])
    second = story.submit(2).json()["id"]
    for job in service.wait([first, second]).values():
        assert job["status"] == "succeeded"
        assert job["model"] == {"name": MODEL, "version": version}
        assert len(job["predictions"]) == 5
    resumed = [int(asked.strip("bytes=-")) for asked in server.seen if asked]
    assert len(resumed) == 2
    assert resumed == sorted(resumed)
    return version


def a_wrong_file_replaces_no_good_one(story: Story, version: str) -> None:
    story.server.content = weights_that_do_not_fit()
    pulled = story.service.command("models", "pull", MODEL)
    assert pulled.returncode == 1
    assert "is not what was installed from there before: its SHA-256 is" in pulled.stderr
    again = story.model()
    assert (again["state"], again["current"]) == ("ready", version)
    third = story.submit(3).json()["id"]
    assert story.service.wait([third])[third]["status"] == "succeeded"

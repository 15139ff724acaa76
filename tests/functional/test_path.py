"""The whole path on real input: held-out digits through the running service."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.functional.service import Service, digit_png, digit_targets, running
from tests.services import BrokerServer

pytestmark = pytest.mark.slow


@pytest.fixture
def service(tmp_path: Path, stack: dict[str, Any], redis_server: BrokerServer) -> Iterator[Service]:
    with running(tmp_path, broker_url=redis_server.url, **stack) as service:
        yield service


def test_the_held_out_digits(service: Service) -> None:
    targets = digit_targets()
    with ThreadPoolExecutor(16) as pool:
        sent = list(pool.map(lambda i: service.submit(digit_png(i)), range(len(targets))))
    jobs = service.wait([job["id"] for job in sent])
    answers = [jobs[job["id"]] for job in sent]
    assert {job["status"] for job in answers} == {"succeeded"}
    right = sum(
        job["predictions"][0]["label"] == target
        for job, target in zip(answers, targets, strict=True)
    )
    assert right >= 355

    first = answers[0]
    assert first["model"]["name"] == "digits"
    assert first["attempt"] == 1
    assert [p["rank"] for p in first["predictions"]] == [1, 2, 3, 4, 5]
    assert first["timings"]["total_ms"] >= first["timings"]["inference_ms"] > 0

    again = service.post(digit_png(0))
    assert again.status_code == 200
    assert again.json()["reused"] is True
    assert again.json()["predictions"] == first["predictions"]

    broken = service.submit(digit_png(1)[:200], headers={"Prefer": "wait=30"})
    assert broken["status"] == "failed"
    assert broken["error"]["code"] == "image_unreadable"

    without_vgg16 = service.post(digit_png(2), model="vgg16")
    assert without_vgg16.status_code == 503
    assert without_vgg16.json()["code"] == "model_unavailable"
    assert "classify models import vgg16" in without_vgg16.json()["detail"]

    worker = requests.get(f"{service.url}/v1/models/digits", timeout=10).json()
    assert worker["workers"] == 1
    assert {file.name for file in (service.directory / "heartbeat").iterdir()} == {
        "background",
        "worker",
    }
    assert service.worker.stop() == 0

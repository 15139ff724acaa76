"""A model's version is switched forward and back while jobs come and a worker is killed."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.functional.service import ROOT, Service, distinct_image
from tests.services import OWN_KERAS, BrokerServer, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

DIGITS = ROOT / "models" / "digits"
SCALES = (1 / 255, 0.7 / 255)
MOST_JOBS = 500

REFERENCE = """
import sys, keras, numpy as np
rows = np.load(sys.argv[1]).astype(np.float32)
model = keras.saving.load_model(sys.argv[2], compile=False)
scores = [model.predict(rows * scale, verbose=0) for scale in map(float, sys.argv[4:])]
np.save(sys.argv[3], np.stack(scores))
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What Keras itself gives for each image with each of the scales: (scales, images, 10)."""
    directory = tmp_path_factory.mktemp("reference")
    rows = []
    for number in range(MOST_JOBS):
        image = Image.open(io.BytesIO(distinct_image(number))).convert("RGB")
        rows.append(np.asarray(image.resize((32, 32), Image.Resampling.NEAREST)))
    given, answered = directory / "rows.npy", directory / "scores.npy"
    np.save(given, np.stack(rows))
    files = [str(given), str(DIGITS / "model.keras"), str(answered)]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REFERENCE, *files, *map(str, SCALES)],
        check=True,
        capture_output=True,
        env=OWN_KERAS,
    )
    return np.load(answered)


@pytest.fixture(
    params=[
        # Both versions loaded at once, and only one at a time: on one database each, for the time.
        pytest.param(("postgresql", MOST_JOBS, {}), id="room-for-both"),
        pytest.param(
            ("sqlite", 150, {"max_loaded_versions": 1, "exchange_seconds": 1}), id="room-for-one"
        ),
    ]
)
def stage(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: BrokerServer
) -> Iterator[tuple[Service, int]]:
    """A service, and how many jobs it is to be given."""
    database, jobs, settings = request.param
    url = request.getfixturevalue(f"{database}_url")
    service = Service(tmp_path, url, redis_server.url, **settings)
    try:
        service.start()
        service.wait_until_served("digits")
        yield service, jobs
    finally:
        service.close()


def run(service: Service, *arguments: str) -> Any:
    done = service.command("models", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_job_is_lost_or_answered_by_a_version_it_does_not_name(
    stage: tuple[Service, int], reference: Any, tmp_path: Path
) -> None:
    service, count = stage
    expected = reference[:, :count]
    # The two versions give answers that can be told apart.
    assert np.mean(np.abs(expected[0] - expected[1]).max(axis=1) > 1e-3) > 0.9
    [first] = (m["current"] for m in run(service, "list") if m["name"] == "digits")
    variant = tmp_path / "variant"
    shutil.copytree(DIGITS, variant)
    config = (variant / "model.toml").read_text()
    (variant / "model.toml").write_text(config.replace(f"{SCALES[0]!r}", f"{SCALES[1]!r}"))
    second = run(service, "import", "digits", str(variant))["version"]
    assert first != second

    def submit(number: int) -> dict[str, Any]:
        # Two of four are pinned, one to each version; two take what is current.
        name = {0: f"digits@{first}", 1: f"digits@{second}"}.get(number % 4, "digits")
        return service.submit(distinct_image(number), model=name)

    def work_is_under_way() -> bool:
        return bool(service.jobs(status="running", limit=1))

    fifth = count // 5
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(submit, range(fifth)))  # the second version is current
        service.wait([job["id"] for job in jobs])
        more = [pool.submit(submit, number) for number in range(fifth, count - fifth)]
        wait_until(work_is_under_way, seconds=60, what="work")
        service.worker.kill()
        run(service, "current", "digits", first)
        batches = len(service.worker.events("batch"))
        service.worker.start()
        wait_until(
            lambda: len(service.worker.events("batch")) > batches, seconds=90, what="a batch"
        )
        run(service, "current", "digits", second)
        run(service, "current", "digits", first)
        jobs += [each.result() for each in more]
        jobs += pool.map(submit, range(count - fifth, count))  # the first one is current
    ended = service.wait([job["id"] for job in jobs])

    for number, job in enumerate(jobs):
        answer = ended[job["id"]]
        assert answer["status"] == "succeeded", answer
        version = answer["model"]["version"]
        if number % 4 < 2:
            assert version == (first, second)[number % 4]
        elif number < fifth:
            assert version == second
        elif number >= count - fifth:
            assert version == first
        scores = expected[(first, second).index(version)][number]
        got = {p["label"]: p["score"] for p in answer["predictions"]}
        assert len(got) == 5
        assert [got[label] for label in got] == pytest.approx(
            [scores[int(label)] for label in got], abs=1e-4
        )

"""Every kind of model through the running service, with the answers that Keras itself gives."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.functional.service import Service
from tests.pictures import encoded
from tests.services import AS_INSTALLED, OWN_KERAS, ROOT, BrokerServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack("sqlite+local"),
    pytest.mark.timeout(600),
]

FAMILIES = {
    "mobilenet_v2": "MobileNetV2",
    "resnet50": "ResNet50",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "densenet121": "DenseNet121",
    "convnext_tiny": "ConvNeXtTiny",
}
EMBEDDINGS = {"vgg16-avg": "VGG16-avg", "vgg16-max": "VGG16-max"}
ANSWERED = FAMILIES | EMBEDDINGS | {"seven": "VGG16-7"}
CLASSES = tuple(f"kind {number}" for number in range(7))

# What `classify models import` is given once the maker has said that it has made these.
IMPORTS = {
    "colours": ["colours colours"],
    "VGG16": [f"{name} VGG16.weights.h5" for name in EMBEDDINGS],
    "VGG16-7": [
        "seven VGG16-7.weights.h5 --application vgg16 --classes 7 --labels seven.txt"
        " --input-size 64x64 --classifier-activation sigmoid"
    ],
    **{made: [f"{name} {made}.weights.h5"] for name, made in FAMILIES.items()},
}

# The command itself, again and again: a process for each would load TensorFlow for each.
IMPORT_ALL = """
import sys
from ops.cli import main
for line in sys.stdin:
    sys.argv = ["classify", "models", "import", *line.split()]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def images() -> dict[str, bytes]:
    y, x = np.mgrid[0:300, 0:400]
    waves = np.stack([x * 255 // 399, y * 255 // 299, (x * 7 + y * 3) % 256], -1)
    scene = Image.fromarray(waves.astype(np.uint8))
    blocks = np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8)
    return {
        "jpeg": encoded(scene, "JPEG"),
        "png-rgba": encoded(scene.resize((90, 200)).convert("RGBA"), "PNG"),
        "jpeg-blocks": encoded(Image.fromarray(blocks.repeat(5, 0).repeat(5, 1)), "JPEG"),
        "png-grey": encoded(scene.convert("L"), "PNG"),
    }


@dataclass
class Answers:
    """What the service and what Keras gave for each image, and the service for more questions."""

    service: Service
    jobs: Mapping[tuple[str, str], dict[str, Any]]
    directory: Path

    def both(self, model: str) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
        """For each image the job, and all the numbers that Keras gave."""
        expected = np.load(self.directory / f"{ANSWERED[model]}.npy")
        for image, numbers in zip(images(), expected, strict=True):
            job = self.jobs[model, image]
            assert job["status"] == "succeeded", job
            yield job, numbers


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory,
    _broker_server: BrokerServer,
    stack_name: str,
    make_stack: Callable[[str, Path], dict[str, Any]],
) -> Iterator[Answers]:
    directory = tmp_path_factory.mktemp("families")
    (directory / "seven.txt").write_text("".join(f"{label}\n" for label in CLASSES))
    for name, data in images().items():
        (directory / name).write_bytes(data)
    # The Keras of whoever runs the service may be set up for other work.
    others = {"backend": "jax", "floatx": "float16", "image_data_format": "channels_first"}
    (directory / "keras.json").write_text(json.dumps(others))
    _broker_server.start()
    service = Service(
        directory,
        broker_url=_broker_server.url,
        max_batch_size=4,
        **make_stack(stack_name, directory),
    )
    service.environment["KERAS_HOME"] = str(directory)
    try:
        # What is made is imported, and what is imported is loaded, while the next is made.
        with make(directory) as maker:
            service.start(service.web, service.worker)
            with import_all(directory, service) as importer:
                for made in maker:
                    importer.write("".join(f"{line}\n" for line in IMPORTS[made.strip()]))
                    importer.flush()
        for model in ANSWERED:
            service.wait_until_served(model)
        jobs = {
            (model, image): service.submit(data, model=model)["id"]
            for model in ANSWERED
            for image, data in images().items()
        }
        ended = service.wait(jobs.values())
        yield Answers(service, {asked: ended[job] for asked, job in jobs.items()}, directory)
    finally:
        service.close()


@contextmanager
def make(directory: Path) -> Iterator[IO[str]]:
    """Make models and Keras's answers; a line for each that is there."""
    paths = [str(directory / name) for name in images()]
    command = [sys.executable, "-W", "ignore", "-m", "tests.functional.make_families"]
    with (
        (directory / "maker.log").open("w") as log,
        subprocess.Popen(
            [*command, str(directory), *paths],
            cwd=ROOT,
            env=OWN_KERAS,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout
            assert process.wait(60) == 0, Path(log.name).read_text()[-4000:]
        finally:
            process.kill()


@contextmanager
def import_all(directory: Path, service: Service) -> Iterator[IO[str]]:
    """Take the arguments of `classify models import`, a line for each, until the end."""
    with (
        (directory / "importer.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", IMPORT_ALL],
            cwd=directory,
            env={**service.environment, "PYTHONPATH": f"{AS_INSTALLED}{os.pathsep}{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        try:
            yield process.stdin
            process.stdin.close()
            assert process.wait(120) == 0, Path(log.name).read_text()[-4000:]
        finally:
            process.kill()


@pytest.mark.parametrize("model", FAMILIES)
def test_a_family_gives_the_labels_and_scores_of_keras(answers: Answers, model: str) -> None:
    ids = (ROOT / "shared/data/imagenet_labels.tsv").read_text().splitlines()
    seen = set()
    for job, numbers in answers.both(model):
        best = np.argsort(-numbers)[:5]
        assert np.diff(np.sort(numbers)[-6:]).min() > 5e-5, "their order would be chance"
        got = job["predictions"]
        assert [f"{each['class_id']}\t{each['label']}" for each in got] == [ids[i] for i in best]
        assert [each["score"] for each in got] == pytest.approx(numbers[best].tolist(), abs=1e-4)
        seen.add(tuple(best))
    assert len(seen) == len(images()), "the images would have one answer"


@pytest.mark.parametrize("model", EMBEDDINGS)
def test_vgg16_without_its_top_gives_the_embeddings_of_keras(answers: Answers, model: str) -> None:
    for job, numbers in answers.both(model):
        assert job["predictions"] is None
        assert len(job["embedding"]) == 512
        # Numbers that are next to nothing are compared with the largest.
        np.testing.assert_allclose(
            job["embedding"], numbers, rtol=1e-4, atol=1e-6 * float(numbers.max())
        )


def test_a_vgg16_of_ones_own_has_its_classes_size_and_activation(answers: Answers) -> None:
    for job, numbers in answers.both("seven"):
        best = np.argsort(-numbers)[:5]
        got = job["predictions"]
        assert [each["label"] for each in got] == [CLASSES[index] for index in best]
        assert [each["score"] for each in got] == pytest.approx(numbers[best].tolist(), abs=1e-4)
        assert sum(each["score"] for each in got) > 1.1  # of sigmoid several may hold


@pytest.mark.parametrize(
    ("colour", "labels"),
    [
        ((255, 255, 0), {"red", "green"}),
        ((255, 255, 255), {"red", "green", "blue"}),
        ((0, 0, 200), {"blue"}),
        ((0, 0, 0), set()),
    ],
)
def test_of_several_labels_those_are_listed_that_reach_the_score(
    answers: Answers, colour: tuple[int, int, int], labels: set[str]
) -> None:
    image = encoded(Image.new("RGB", (50, 40), colour), "PNG")
    job = answers.service.submit(image, model="colours", min_score="0.5")
    ended = answers.service.wait([job["id"]])[job["id"]]
    assert ended["status"] == "succeeded"
    assert {each["label"] for each in ended["predictions"]} == labels
    expected = [1 / (1 + np.exp(5 - 10 * value / 255)) for value in colour]
    listed = sorted((each for each in expected if each >= 0.5), reverse=True)
    assert [each["score"] for each in ended["predictions"]] == pytest.approx(listed, abs=1e-4)

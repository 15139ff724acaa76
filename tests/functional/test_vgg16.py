"""VGG16 through the running service: imported while it runs, and the tutorial's own answers."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.functional.service import Service
from tests.pictures import (
    LOSSLESS_HEIC,
    TURNS,
    encoded,
    grey16,
    high_bytes,
    oriented,
    several,
    turned,
)
from tests.services import OWN_KERAS, BrokerServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.stack("sqlite+local"),
    pytest.mark.timeout(300),
]

# Weights are made; then it is the tutorial's chain, as it stands there, but for the labels, which
# Keras would download, and the images, which are predicted together: one at a time takes longer.
TUTORIAL = """
import json, sys
import numpy as np
import keras
keras.utils.set_random_seed(20260101)
keras.applications.VGG16(weights=None).save_weights(sys.argv[1])

from keras.applications.vgg16 import VGG16, preprocess_input
from keras.utils import img_to_array, load_img
model = VGG16(weights=None)
model.load_weights(sys.argv[1])
images = np.stack([img_to_array(load_img(p, target_size=(224, 224))) for p in sys.argv[2:]])
answers = {}
for path, scores in zip(sys.argv[2:], model.predict(preprocess_input(images), 8, verbose=0)):
    best = np.argsort(-scores)[:5]
    answers[path] = [(int(index), float(scores[index])) for index in best]
print(json.dumps(answers))
"""


@pytest.fixture
def service(tmp_path: Path, stack: dict[str, Any], redis_server: BrokerServer) -> Iterator[Service]:
    service = Service(tmp_path, broker_url=redis_server.url, **stack)
    try:
        yield service
    finally:
        service.close()


def picture(width: int, height: int) -> Image.Image:
    """A picture with gradients and texture, so that its turned versions differ."""
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = x * 255 // max(width - 1, 1)
    pixels[..., 1] = y * 255 // max(height - 1, 1)
    pixels[..., 2] = (x * 7 + y * 3) % 256
    return Image.fromarray(pixels)


def decoded(data: bytes) -> Image.Image:
    """The first frame as it lies in the file, not turned."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def image_kinds() -> dict[str, tuple[bytes, bytes]]:
    """By name: what is sent to the service, and what the tutorial is given for it."""
    scene = picture(400, 300)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Red and green change places: whoever applied it would see another picture.
    for old, new in ((b"rXYZ", b"once"), (b"gXYZ", b"rXYZ"), (b"once", b"gXYZ")):
        profile = profile.replace(old, new)
    alike = {
        "jpeg-rgb": encoded(scene, "JPEG"),
        "jpeg-grayscale": encoded(scene.convert("L"), "JPEG"),
        "jpeg-cmyk": encoded(scene.convert("CMYK"), "JPEG"),
        "jpeg-profile": encoded(scene, "JPEG", icc_profile=profile, quality=60),
        "png-rgba": encoded(scene.convert("RGBA"), "PNG"),
        "png-la": encoded(scene.convert("LA"), "PNG"),
        "png-palette": encoded(scene.convert("P"), "PNG"),
        "png-1-bit": encoded(scene.convert("1"), "PNG"),
        "webp": encoded(scene, "WEBP"),
        "gif": encoded(scene.convert("P"), "GIF"),
        "bmp": encoded(scene, "BMP"),
        "tiff-lzw": encoded(scene.rotate(180), "TIFF", compression="tiff_lzw"),
        "avif": encoded(scene, "AVIF"),
        "1x1": encoded(picture(1, 1), "PNG"),
        "1x4000": encoded(picture(1, 4000), "PNG"),
        "6000x4000": encoded(picture(6000, 4000), "JPEG"),
    }
    kinds = {name: (data, data) for name, data in alike.items()}

    def add(name: str, sent: bytes, seen: Image.Image) -> None:
        kinds[name] = (sent, encoded(seen, "PNG"))

    values = grey16(400, 300)
    add("png-16-bit", encoded(Image.fromarray(values), "PNG"), high_bytes(values))
    for format_ in ("GIF", "PNG", "WEBP", "TIFF"):
        # Finding the best palette for colours takes Pillow a second.
        data = several(scene.convert("L") if format_ == "GIF" else scene, format_)
        add(f"{format_.lower()}-several", data, decoded(data))
    for orientation in TURNS:
        data = oriented(scene, "JPEG", orientation)
        add(f"exif-{orientation}", data, turned(decoded(data), orientation))
    for format_, orientation in (("PNG", 6), ("WEBP", 7), ("AVIF", 8)):
        data = oriented(scene, format_, orientation)
        add(f"{format_.lower()}-exif-{orientation}", data, turned(decoded(data), orientation))
    small = scene.resize((120, 90))
    add("heic", encoded(small, "HEIF", **LOSSLESS_HEIC), small)
    add("heic-exif-6", oriented(small, "HEIF", 6, **LOSSLESS_HEIC), turned(small, 6))
    return kinds


def tutorial_answers(
    weights: Path, directory: Path, kinds: dict[str, tuple[bytes, bytes]]
) -> dict[str, list[tuple[int, float]]]:
    """Make weights and, in a process of its own, what the tutorial answers with them."""
    paths = {}
    for name, (_, reference) in kinds.items():
        paths[name] = directory / f"{name}.img"
        paths[name].write_bytes(reference)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TUTORIAL, str(weights), *map(str, paths.values())],
        capture_output=True,
        text=True,
        check=True,
        env=OWN_KERAS,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    return {name: answers[str(path)] for name, path in paths.items()}


def test_vgg16_is_imported_into_the_running_service_and_answers_as_the_tutorial_does(
    service: Service, tmp_path: Path
) -> None:
    kinds = image_kinds()
    weights = tmp_path / "seeded.weights.h5"
    expected = tutorial_answers(weights, tmp_path, kinds)
    service.start()
    refused = service.post(kinds["webp"][0], model="vgg16")
    assert refused.status_code == 503
    web_pid = service.web.pid

    imported = service.command("models", "import", "vgg16", str(weights))
    assert imported.returncode == 0, imported.stderr
    service.wait_until_served("vgg16")

    with ThreadPoolExecutor(8) as pool:
        sent = dict(
            zip(
                kinds,
                pool.map(lambda kind: service.submit(kind[0], model="vgg16"), kinds.values()),
                strict=True,
            )
        )
    jobs = service.wait((job["id"] for job in sent.values()), seconds=200)
    ids = (Path(__file__).parents[2] / "shared/data/imagenet_labels.tsv").read_text().splitlines()
    for name, job in sent.items():
        answer = jobs[job["id"]]
        assert answer["status"] == "succeeded", (name, answer)
        got = answer["predictions"]
        want = expected[name]
        assert [f"{p['class_id']}\t{p['label']}" for p in got] == [ids[i] for i, _ in want], name
        assert [p["score"] for p in got] == pytest.approx([s for _, s in want], abs=1e-4), name
    sizes = {
        batch["size"]
        for batch in service.worker.events("batch")
        if batch["model"].startswith("vgg16@")
    }
    assert len(sizes) > 1, f"batches of mixed sizes were wanted, not only {sizes}"
    assert service.web.pid == web_pid and service.web.running

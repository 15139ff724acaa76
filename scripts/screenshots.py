"""Pictures of the pages for docs/screenshots/, from a service of its own: `make screenshots`."""

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "screenshots"
SAMPLES = ROOT / "web" / "static" / "samples"
SIZES = {"": (1280, 640), "-phone": (390, 844)}
START_SECONDS = 60
# Asked once: a condition that is looked at again and again would be stopped by the pages' policy.
ALL_IMAGES_ARE_THERE = """Promise.all(
    [...document.images].filter((i) => i.loading !== 'lazy').map((i) => i.decode().catch(() => 0))
)"""
SETTLING = ("history", "jobs", "ingestion")  # pages of many pictures
MOST_BYTES = 100_000


@contextmanager
def service() -> Iterator[str]:
    """`classify up` in a directory of its own; the address, once it serves digits."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="screenshots-") as directory:
        environment = {
            **{k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")},
            "PYTHONPATH": str(ROOT),
            "CLASSIFIER_BIND": address,
            "CLASSIFIER_DATA_DIR": f"{directory}/data",
            "CLASSIFIER_DEFAULT_MODEL": "digits",
            "CLASSIFIER_DOWNLOAD": "",
        }
        command = [sys.executable, "-m", "ops.cli", "up"]
        process = subprocess.Popen(command, cwd=directory, env=environment)
        try:
            wait_for_worker(f"http://{address}", process)
            yield f"http://{address}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for_worker(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a worker serves digits, so that the pages have nothing to excuse."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            sys.exit("the service did not start")
        try:
            if requests.get(f"{url}/v1/models/digits", timeout=5).json().get("workers"):
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    sys.exit(f"no worker serves digits within {START_SECONDS} s")


def submit_samples(url: str) -> list[str]:
    """Every sample picture, and one that is cut off; the ids of their jobs, ended."""
    pictures = {path.name: path.read_bytes() for path in sorted(SAMPLES.glob("*.png"))}
    pictures["cut-off.png"] = next(iter(pictures.values()))[:300]
    ids = []
    for name, data in pictures.items():
        answer = requests.post(
            f"{url}/v1/jobs",
            files={"image": (name, data)},
            headers={"Prefer": "wait=30"},
            timeout=60,
        )
        answer.raise_for_status()
        ids.append(answer.json()["id"])
    return ids


def ingest_samples(url: str) -> str:
    """The sample pictures a few times over in a zip, with what is none; the ingestion, ended."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(SAMPLES.glob("*.png")):
            for number in range(1, 5):
                zipped.writestr(f"scans/{number}/{path.name}", path.read_bytes())
        zipped.writestr("scans/cut-off.png", path.read_bytes()[:300])
        zipped.writestr("scans/read-me.txt", "Scans of November")
    answer = requests.post(
        f"{url}/v1/ingestions",
        files={"archive": ("scans-november.zip", archive.getvalue())},
        timeout=60,
    )
    answer.raise_for_status()
    ingestion = answer.json()["id"]
    requests.get(
        f"{url}/v1/ingestions/{ingestion}", headers={"Prefer": "wait=60"}, timeout=90
    ).raise_for_status()
    return str(ingestion)


def picture(page: Page, name: str) -> None:
    """What is seen without scrolling, in as many colours as there is room for."""
    page.evaluate(ALL_IMAGES_ARE_THERE)
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    path = TARGET / f"{name}.png"
    for colours in (256, 128, 96, 64):
        few = image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if (size := path.stat().st_size) <= MOST_BYTES:
            break
    else:
        sys.exit(f"{path} is larger than {MOST_BYTES:,} bytes")
    sys.stdout.write(f"{path.relative_to(ROOT)}  {colours} colours, {size:,} bytes\n")


def pictures(browser: Browser, url: str, ids: list[str], ingestion: str) -> None:
    """Every page at each size."""
    several = "&".join(f"id={job}" for job in ids[-4:])
    pages = {
        "form": "/",
        "job": f"/jobs/{ids[7]}",
        "jobs": f"/jobs?{several}",
        "ingestion": f"/ingestions/{ingestion}",
        "history": "/history",
        "status": "/status",
    }
    for suffix, (width, height) in SIZES.items():
        context = browser.new_context(
            viewport={"width": width, "height": height}, locale="en-GB", color_scheme="light"
        )
        page = context.new_page()
        for name, path in pages.items():
            page.goto(url + path, wait_until="networkidle" if name in SETTLING else "load")
            picture(page, name + suffix)
        context.close()


def main() -> None:
    """Start, submit, take the pictures, stop."""
    found = subprocess.run(
        [ROOT / "scripts" / "install-browser"], stdout=subprocess.PIPE, text=True, check=True
    )
    TARGET.mkdir(exist_ok=True)
    with service() as url, sync_playwright() as playwright:
        ids = submit_samples(url)
        browser = playwright.chromium.launch(
            executable_path=found.stdout.strip(), chromium_sandbox=os.geteuid() != 0
        )
        pictures(browser, url, ids, ingest_samples(url))
        browser.close()


if __name__ == "__main__":
    main()

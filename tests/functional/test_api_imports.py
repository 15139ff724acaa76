"""The web process never loads what only workers need: half a gigabyte, and seconds."""

import os
import subprocess
import sys
from pathlib import Path

from tests.services import ROOT

_SERVE = """
import sys
from web.app import create_app

client = create_app().test_client()
assert client.get("/healthz").status_code == 200
assert client.post("/v1/jobs", data=b"x", content_type="image/png").status_code == 415
client.get("/")
for name in ("tensorflow", "keras", "numpy", "worker"):
    assert name not in sys.modules, name
"""


def test_serving_loads_no_tensorflow(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "CLASSIFIER_DATA_DIR": str(tmp_path / "data"),
    }
    subprocess.run(
        [sys.executable, "-W", "error", "-c", _SERVE],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=60,
    )

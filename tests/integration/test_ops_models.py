"""Installing models: what is taken, what is refused and why, and the commands around it."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.catalogue import BUNDLED, DOWNLOADS, Entry
from ops.directory import install_directory
from ops.install import Labels, NotAModel, version_of
from ops.models import prepare, wanted
from ops.weights import import_weights
from shared import models
from shared.database import Database
from shared.errors import ServiceError
from shared.models import ModelSpec
from shared.settings import Settings
from shared.storage.local import LocalStorage
from tests.integration.model_files import archive, classify, hdf5
from tests.services import ROOT

VGG16 = DOWNLOADS["vgg16"]


class Place:
    """A prepared database and storage, and what `check` was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.database = Database(f"sqlite:///{self.data / 'classifier.db'}")
        self.storage = LocalStorage(self.data / "objects")
        self.checked: list[tuple[ModelSpec, Labels, list[str]]] = []
        self.refuses = False
        prepare(self.database, self.storage, ["vgg16"])

    def check(self, spec: ModelSpec, labels: Labels, directory: Path) -> None:
        self.checked.append((spec, labels, sorted(path.name for path in directory.iterdir())))
        if self.refuses:
            raise ServiceError("it cannot be loaded")

    def import_vgg16(self, file: Path, entry: Entry = VGG16) -> str:
        return import_weights(
            self.database, self.storage, entry, file, self.data / "downloads", check=self.check
        )

    def current(self, name: str) -> models.Version | None:
        with self.database.read() as connection:
            [row] = [row for row in models.states(connection) if row.name == name]
            if row.current_version is None:
                return None
            return models.load_version(connection, row.current_version)

    def write(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.directory / name
        make(path)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def test_labels_of_imagenet_are_a_thousand_in_the_order_of_keras() -> None:
    labels = VGG16.read_labels()
    assert len(labels) == 1000
    assert labels[0] == ("n01440764", "tench")
    assert labels[281] == ("n02123045", "tabby")


def test_bundled_digits_are_there_without_a_download(place: Place) -> None:
    digits = place.current("digits")
    assert digits is not None
    assert [label for _, label in digits.labels] == [str(digit) for digit in range(10)]
    assert (digits.spec.height, digits.spec.width) == (32, 32)
    assert place.storage.read(f"models/{digits.version}/model.keras")
    assert place.storage.read(f"models/{digits.version}/labels.txt").startswith(b"0\t0\n1\t1\n")
    assert place.current("vgg16") is None


def test_choice_of_another_version_outlives_the_next_start(place: Place) -> None:
    own = place.directory / "own"
    own.mkdir()
    for file in ("model.keras", "model.toml"):
        (own / file).write_bytes((BUNDLED["digits"] / file).read_bytes())
    (own / "labels.txt").write_text("".join(f"id{n}\tdigit {n}\n" for n in range(10)))
    version = install_directory(place.database, place.storage, "digits", own)
    prepare(place.database, place.storage)
    digits = place.current("digits")
    assert digits is not None
    assert digits.version == version
    assert digits.labels[3] == ("id3", "digit 3")


def test_version_is_the_content_and_nothing_else() -> None:
    spec = ModelSpec("VGG16", "weights.h5", 224, 224, "vgg16", "ab" * 32, 7)
    labels = [("n1", "one")]
    assert version_of(spec, labels) == version_of(
        ModelSpec("VGG16", "weights.weights.h5", 224, 224, "vgg16", "ab" * 32, 8), labels
    )
    assert len(version_of(spec, labels)) == 12
    others = [
        ModelSpec("VGG19", "weights.h5", 224, 224, "vgg16", "ab" * 32, 7),
        ModelSpec("VGG16", "weights.h5", 225, 224, "vgg16", "ab" * 32, 7),
        ModelSpec("VGG16", "weights.h5", 224, 224, "scale", "ab" * 32, 7),
        ModelSpec("VGG16", "weights.h5", 224, 224, "vgg16", "ac" * 32, 7),
        ModelSpec("VGG16", "weights.h5", 224, 224, "vgg16", "ab" * 32, 7, precision="bfloat16"),
        ModelSpec("VGG16", "w.h5", 224, 224, "vgg16", "ab" * 32, 7, options={"pooling": "avg"}),
    ]
    versions = {version_of(other, labels) for other in others}
    assert len(versions | {version_of(spec, labels), version_of(spec, [("n1", "two")])}) == 8


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (hdf5({}, "layers"), "weights.weights.h5"),
        (hdf5({"layer_names": "x"}), "weights.h5"),
    ],
)
def test_weights_are_told_by_their_content(
    place: Place, make: Callable[[Path], None], name: str
) -> None:
    file = place.write("any-name.bin", make)
    version = place.import_vgg16(file)
    [(spec, labels, seen)] = place.checked
    assert (spec.architecture, spec.weights, seen) == ("VGG16", name, [name])
    assert len(labels) == 1000
    assert place.storage.read(f"models/{version}/{name}") == file.read_bytes()
    current = place.current("vgg16")
    assert current is not None
    assert current.version == version
    assert len(current.labels) == 1000
    assert list((place.data / "downloads").iterdir()) == []


def test_weights_inside_an_archive_are_taken_and_its_config_is_not_read(place: Place) -> None:
    inner = place.write("inner", hdf5({}, "layers")).read_bytes()
    file = place.directory / "own.keras"
    archive(file, config_json=b"not even JSON", model_weights_h5=inner)
    version = place.import_vgg16(file)
    assert place.storage.read(f"models/{version}/weights.weights.h5") == inner


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (hdf5({"model_config": "{}"}, "model_weights"), "a whole model in HDF5"),
        (hdf5({}, "something"), "holds no weights of Keras"),
        (lambda path: path.write_bytes(pickle.dumps({"weights": 1})), "pickles"),
        (lambda path: path.write_bytes(b""), "not an HDF5"),
        (lambda path: archive(path, data_pkl=b"x"), r"no \.keras archive"),
        (
            lambda path: archive(path, model_weights_h5=b"no HDF5"),
            "not an HDF5 weights file",
        ),
        (lambda path: path.mkdir(), "is not a file"),
    ],
)
def test_anything_else_is_refused_with_a_reason(
    place: Place, make: Callable[[Path], None], reason: str
) -> None:
    with pytest.raises(NotAModel, match=reason):
        place.import_vgg16(place.write("given", make))
    assert place.checked == []
    assert place.current("vgg16") is None


def test_weights_that_cannot_be_loaded_are_not_installed(place: Place) -> None:
    place.refuses = True
    with pytest.raises(ServiceError, match="cannot be loaded"):
        place.import_vgg16(place.write("file", hdf5({}, "layers")))
    assert place.current("vgg16") is None


def test_without_its_top_it_gives_embeddings_and_has_no_labels(place: Place) -> None:
    file = place.write("file", hdf5({}, "layers"))
    place.import_vgg16(file, DOWNLOADS["vgg16-avg"])
    version = place.current("vgg16-avg")
    assert version is not None
    assert version.labels == ()
    assert version.spec.output == "embedding"
    assert version.spec.activation == "none"
    assert version.spec.options == {"include_top": False, "pooling": "avg"}


def test_wanted_are_the_downloads_and_a_default_that_can_be_pulled() -> None:
    def names(**values: object) -> list[str]:
        return wanted(Settings(_env_file=None, **values))  # type: ignore[call-arg, arg-type]

    assert names() == ["mobilenet_v2", "vgg16"]
    assert names(download=("vgg16-avg", "cat"), default_model="digits") == ["vgg16-avg"]


def test_only_what_somebody_will_ask_for_is_known(place: Place) -> None:
    with place.database.read() as connection:
        assert [row.name for row in models.states(connection)] == ["digits", "vgg16"]


def test_list_and_current_on_an_empty_directory(tmp_path: Path) -> None:
    listed = classify(tmp_path / "data", "models", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    digits, mobilenet, vgg16 = json.loads(listed.stdout)
    assert (mobilenet["name"], mobilenet["state"]) == ("mobilenet_v2", "unavailable")
    assert (digits["name"], digits["state"]) == ("digits", "ready")
    assert [v["version"] for v in digits["versions"]] == [digits["current"]]
    assert (vgg16["name"], vgg16["state"], vgg16["current"]) == ("vgg16", "unavailable", None)
    assert "classify models import vgg16 FILE" in vgg16["detail"]
    switched = classify(tmp_path / "data", "models", "current", "digits", digits["current"])
    assert (switched.returncode, switched.stderr) == (0, "")
    refused = classify(tmp_path / "data", "models", "current", "digits", "000000000000")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: digits has no installed version 000000000000")
    assert refused.stderr.count("\n") == 1


def test_pull_without_a_network_says_so_in_one_line(tmp_path: Path) -> None:
    failed = classify(tmp_path / "data", "models", "pull", "vgg16")
    assert failed.returncode == 1
    assert failed.stderr == ("Error: 127.0.0.1 could not be reached (connection refused)\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("models", "pull", "digits"), 1, "digits cannot be downloaded. These can, also as NAME"),
        (("models", "pull", "cat"), 1, "vgg16, vgg19, mobilenet, mobilenet_v2, "),
        (("models", "pull"), 2, "Missing argument 'NAME'"),
        (("nonsense",), 2, "No such command"),
        (("--help",), 0, ""),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    ended = classify(tmp_path / "data", *arguments)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr


def test_unknown_setting_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "ops.cli", "db", "upgrade"],
        cwd=ROOT,
        env=dict(os.environ) | {"CLASSIFIER_DATADIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr == "Error: unknown setting: CLASSIFIER_DATADIR\n"


@pytest.mark.parametrize("command", ["--help", "models --help"])
def test_help_is_quick_because_it_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys, ops.cli\n"
        f"sys.argv = ['classify', *{command.split()!r}]\n"
        "try: ops.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'sqlalchemy', 'flask', 'celery', 'h5py', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"

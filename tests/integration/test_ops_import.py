"""`classify models import`: variants with the options of Keras's constructor, and refusals."""

import json
from pathlib import Path

import pytest

from shared import models
from shared.database import Database
from tests.integration.model_files import classify, hdf5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("own FILE", 1, "a file alone does not say how to use own: say --application NAME"),
        ("vgg16", 2, "Give a FILE, or --random-weights."),
        ("own FILE --application cat", 1, "no application cat; there are vgg16, vgg19, mobilenet"),
        ("vgg16-avg FILE --application vgg16 --no-top", 1, "vgg16-avg is Keras's own, and stays"),
        ("own FILE --application vgg16 --no-top", 1, "choose the pooling avg or max"),
        ("own . --classes 3", 2, "A directory says everything itself"),
        ("own FILE --application vgg16 --input-size 224", 2, "is not HEIGHTxWIDTH in pixels"),
        ("vgg16 no-such-file", 2, "does not exist"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    tmp_path: Path, arguments: str, code: int, words: str
) -> None:
    (tmp_path / "FILE").write_text("")
    given = [str(tmp_path / word) if word == "FILE" else word for word in arguments.split()]
    ended = classify(tmp_path / "data", "models", "import", *given)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert not (tmp_path / "data").exists()


def installed(data: Path, name: str) -> models.Version:
    database = Database(f"sqlite:///{data / 'classifier.db'}")
    with database.read() as connection:
        [row] = [row for row in models.states(connection) if row.name == name]
        version = models.load_version(connection, row.current_version)
    database.close()
    return version


@pytest.mark.slow
def test_a_variant_without_weights_is_made_and_its_file_can_be_imported(tmp_path: Path) -> None:
    data, labels = tmp_path / "data", tmp_path / "labels.txt"
    labels.write_text("n1\tsmall\nn2\tgreen\nn3\tround\n")
    options = [
        *("--application", "mobilenet", "--classes", "3", "--labels", str(labels)),
        *("--input-size", "48x32", "--classifier-activation", "sigmoid"),
    ]
    made = classify(data, "models", "import", "toy", "--random-weights", *options, "--json")
    assert made.returncode == 0, made.stderr
    assert "toy has random weights: it was never trained" in made.stderr
    toy = installed(data, "toy")
    assert toy.version == json.loads(made.stdout)["version"]
    assert toy.spec.options == {"classes": 3, "classifier_activation": "sigmoid"}
    assert (toy.spec.height, toy.spec.width, toy.spec.activation) == (48, 32, "sigmoid")
    assert toy.labels == (("n1", "small"), ("n2", "green"), ("n3", "round"))
    file = data / "objects" / "models" / toy.version / toy.spec.weights
    again = classify(data, "models", "import", "again", str(file), *options)
    assert again.returncode == 0, again.stderr
    assert installed(data, "again").version == toy.version
    assert list((data / "downloads").iterdir()) == []


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    hdf5({}, "layers")(tmp_path / "w.h5")
    refused = classify(tmp_path / "data", "models", "import", "mobilenet", str(tmp_path / "w.h5"))
    assert refused.returncode == 1
    assert "Error: " in refused.stderr
    assert "Traceback" not in refused.stderr

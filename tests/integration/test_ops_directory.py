"""A model of one's own, from its directory: what it may say, and what is refused unloaded."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.catalogue import BUNDLED
from ops.directory import read_directory
from ops.install import NotAModel
from tests.integration.model_files import change_config, change_toml, hdf5, own_directory

Change = Callable[[Path], object]


def toml(old: str, new: str) -> Change:
    return lambda directory: change_toml(directory, old, new)


def layer(old: str, new: str) -> Change:
    return lambda directory: change_config(
        directory / "model.keras", lambda text: text.replace(old, new, 1)
    )


def weights(data: bytes) -> Change:
    return lambda directory: (directory / "model.keras").write_bytes(data)


def labels(data: bytes) -> Change:
    return lambda directory: (directory / "labels.txt").write_bytes(data)


def remove(name: str) -> Change:
    return lambda directory: (directory / name).unlink()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove("labels.txt"), "has no file labels.txt"),
        (remove("model.toml"), "has no file model.toml"),
        (remove("model.keras"), r"has no file model.keras.*\.h5 files and pickles, are not taken"),
        (labels(b"a\nb\na\n"), "labels.txt, line 3: 'a' is there already"),
        (labels(b"\n"), "labels.txt has no labels"),
        (labels(b"a\nb\0\n"), "labels.txt, line 2: control characters"),
        (labels(b"\xff"), "labels.txt cannot be read"),
        (lambda d: (d / "model.toml").write_text("[input]\nheight = 1"), "input.width: Field req"),
        (lambda d: (d / "model.toml").write_text("nonsense"), "model.toml: Expected"),
        (lambda d: (d / "model.toml").write_bytes(b"\xff"), "model.toml: 'utf-8'"),
        (toml('"softmax"', '"tanh"'), "model.toml: output.activation: should be 'softmax', 'sig"),
        (toml('"scale"', '"magic"'), "model.toml: preprocessing.kind: should be 'scale', 'convn"),
        (toml('"scale"', '"vgg16"'), "preprocessing: scale and offset belong to the kind scale"),
        (toml('"nearest"', '"bicubic"'), "input.resize: should be 'nearest' or 'bilinear'"),
        (toml("height = 32", 'height = "32"'), "input.height: should be a valid integer"),
        (toml("height = 32", "height = 0"), "input.height: should be greater than 0"),
        (toml("scale = 0.0", "scale = inf # "), "preprocessing.scale: should be a finite number"),
        (toml("[output]", "[output]\nactvation = 1"), "output.actvation: there is no such key"),
        (toml("[output]", "[outputs]"), "output: Field required; outputs: there is no such key"),
        (toml("[output]", "[output]\nembedding = true"), "output: an embedding has no activation"),
        (toml('activation = "softmax"', ""), "output: say the activation"),
        (toml('activation = "softmax"', "embedding = true"), "labels.txt: an embedding has no lab"),
        (weights(pickle.dumps({"weights": 1})), "model.keras is a pickle. Only .keras archives"),
        (weights(b""), "model.keras is no .keras archive of Keras 3"),
        (
            lambda d: hdf5({"model_config": "{}"}, "model_weights")(d / "model.keras"),
            r"model.keras is a whole model in HDF5 \(.h5\)",
        ),
        (layer('"class_name": "Conv2D"', '"class_name": "Lambda"'), "has a Lambda layer, which is"),
        (layer('"activation": "relu"', '"activation": {"class_name": "__lambda__"}'), "a lambda f"),
        (
            layer(
                '"activation": "relu"',
                '"activation": {"module": "builtins", "class_name": "function", "config": "mine"}',
            ),
            "has the function mine of your own, which is code",
        ),
        (layer('"module": "keras.layers"', '"module": "os"'), "has os.InputLayer, which is code"),
        (layer('"module": "keras.layers"', '"module": null'), "has the class InputLayer of your"),
        (lambda d: change_config(d / "model.keras", lambda _: "[]"), None),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_file_and_the_key(
    tmp_path: Path, change: Change, reason: str | None
) -> None:
    own = own_directory(tmp_path)
    change(own)
    if reason is None:
        read_directory(own)  # nothing in it is code; loading it will say what is wrong
        return
    with pytest.raises(NotAModel, match=reason):
        read_directory(own)


def test_an_archive_that_lacks_a_part_is_named(tmp_path: Path) -> None:
    from tests.integration.model_files import archive

    own = own_directory(tmp_path)
    (own / "model.keras").unlink()
    archive(own / "model.keras", config_json=b"{}")
    with pytest.raises(NotAModel, match=r"it has no model\.weights\.h5"):
        read_directory(own)


def test_a_loss_of_ones_own_does_no_harm(tmp_path: Path) -> None:
    """How a model was trained is not loaded."""
    own = own_directory(tmp_path)
    change_config(
        own / "model.keras",
        lambda text: (
            text[:-1] + ', "compile_config": {"loss": {"module": "mine", '
            '"class_name": "function", "config": "loss", "registered_name": "function"}}}'
        ),
    )
    read_directory(own)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (toml('"softmax"', '"sigmoid"'), {"activation": "sigmoid", "output": "scores"}),
        (toml('"softmax"', '"none"'), {"activation": "none", "output": "scores"}),
        (toml('"nearest"', '"bilinear"'), {"resize": "bilinear"}),
        (toml("height = 32", "height = 64"), {"height": 64, "width": 32}),
        (toml("offset = 0.0", "offset = -1"), {"offset": -1.0, "preprocessing": "scale"}),
        (
            toml('kind = "scale"\nscale = 0.00392156862745098\noffset = 0.0', 'kind = "resnet_v2"'),
            {"preprocessing": "resnet_v2", "scale": 1.0, "offset": 0.0},
        ),
    ],
)
def test_what_it_says_is_what_is_served(
    tmp_path: Path, change: Change, expected: dict[str, object]
) -> None:
    own = own_directory(tmp_path)
    change(own)
    spec, found = read_directory(own)
    assert {name: getattr(spec, name) for name in expected} == expected
    assert len(found) == 10


def test_an_embedding_needs_no_labels(tmp_path: Path) -> None:
    own = own_directory(tmp_path)
    change_toml(own, 'activation = "softmax"', "embedding = true")
    (own / "labels.txt").unlink()
    spec, found = read_directory(own)
    assert (spec.output, spec.activation, list(found)) == ("embedding", "none", [])


def test_digits_are_such_a_directory() -> None:
    spec, found = read_directory(BUNDLED["digits"])
    assert spec.scale == pytest.approx(1 / 255)
    assert [label for _, label in found] == [str(digit) for digit in range(10)]

"""What the TensorFlow engine serves and what it refuses, by small models made here."""

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ops.archive import check_archive
from ops.install import NotAModel
from shared.models import ModelSpec
from tests.services import OWN_KERAS, ROOT
from worker.engines import quick_import
from worker.engines.protocol import ModelUnloadable, make_engine

pytestmark = [
    pytest.mark.slow,
    # Keras saves its own variables in a way that NumPy 2 does not like.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SIZE = 32


def own(**values: Any) -> ModelSpec:
    """The spec of a directory of one's own."""
    known = {"preprocessing": "scale", "height": SIZE, "width": SIZE, "weights": "model.keras"}
    return ModelSpec(
        **{"architecture": "directory", "sha256": "", "size_bytes": 0} | known | values
    )


def application(name: str, **values: Any) -> ModelSpec:
    """The spec of a small `keras.applications` model."""
    known = {"preprocessing": "vgg16", "weights": "weights.weights.h5"}
    return own(**{"architecture": name} | known | values)


def labels(count: int) -> list[tuple[str, str]]:
    return [(str(number), f"label {number}") for number in range(count)]


def check(spec: ModelSpec, count: int, directory: Path) -> None:
    from worker.engines.tensorflow import check_weights

    check_weights(spec, labels(count), directory)


def save(directory: Path, *last: Any, size: tuple[int | None, int | None] = (SIZE, SIZE)) -> None:
    """Save a model that ends in these layers."""
    import keras

    first = [keras.Input((*size, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAvgPool2D()]
    keras.Sequential([*first, *last]).save(directory / "model.keras")


def dense(count: int, activation: str | None) -> Any:
    import keras

    return keras.layers.Dense(count, activation=activation)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_a_model_of_ones_own_gives_what_its_last_layer_gives(
    tmp_path: Path, activation: str | None
) -> None:
    save(tmp_path, dense(3, activation))
    spec = own(activation=activation or "none")
    check(spec, 3, tmp_path)
    engine = make_engine("tensorflow")
    engine.load(spec, tmp_path)
    scores = engine.forward(np.full((2, SIZE, SIZE, 3), 99, np.uint8))
    assert (scores.shape, scores.dtype) == ((2, 3), np.float32)
    assert np.array_equal(scores[0], scores[1])
    if activation == "softmax":
        assert scores[0].sum() == pytest.approx(1)


def test_an_embedding_has_no_labels_and_no_activation_to_keep_to(tmp_path: Path) -> None:
    save(tmp_path, dense(5, "relu"))
    spec = own(output="embedding", activation="none")
    check(spec, 0, tmp_path)
    with pytest.raises(ModelUnloadable, match="an embedding has no labels, and 5 were given"):
        check(spec, 5, tmp_path)


def test_a_model_that_takes_any_size_is_served_at_the_one_it_is_given(tmp_path: Path) -> None:
    save(tmp_path, dense(3, "softmax"), size=(None, None))
    check(own(height=40, width=24), 3, tmp_path)


def lambda_layer(directory: Path) -> None:
    import keras

    save(directory, keras.layers.Lambda(lambda x: x * 2), dense(3, "softmax"))


def layer_of_ones_own(directory: Path) -> None:
    import keras

    class Doubling(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    save(directory, Doubling(), dense(3, "softmax"))


def function_of_ones_own(directory: Path) -> None:
    import keras

    def doubled(inputs: Any) -> Any:
        return inputs * 2

    save(directory, keras.layers.Dense(3, activation=doubled))


def weights_that_are_no_numbers(directory: Path) -> None:
    import keras

    save(directory, keras.layers.Dense(3, "softmax", kernel_initializer=_constant(np.nan)))


def _constant(value: float) -> Any:
    import keras

    return keras.initializers.Constant(value)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda d: (d / "model.keras").write_bytes(b"\x89HDF\r\n\x1a\n"),
            "model.keras cannot be loaded",
        ),
        (weights_that_are_no_numbers, "not finite"),
        (lambda d: save(d, dense(2, "softmax")), "gives 2 scores for 3 labels"),
        (lambda d: save(d, dense(3, "sigmoid")), "said to be softmax, .* last layer has sigmoid"),
        (lambda d: save(d, dense(3, None)), "said to be softmax, .* last layer has none"),
        (lambda d: save(d, dense(3, "softmax"), size=(8, 8)), r"takes \(None, 8, 8, 3\)"),
    ],
)
def test_a_model_of_ones_own_that_cannot_be_served_is_refused(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(tmp_path)
    with pytest.raises(ModelUnloadable, match=reason) as refusal:
        check(own(), 3, tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500  # people read it


@pytest.mark.parametrize(
    ("make", "reason", "word_of_keras"),
    [
        (lambda_layer, "has a Lambda layer, which is code", "disallowed"),
        (layer_of_ones_own, r"has .*\bDoubling\b.*, which is code", "'Doubling'"),
        (function_of_ones_own, "has the function doubled of your own, which is code", "'doubled'"),
    ],
)
def test_code_is_refused_before_it_is_loaded_and_again_by_the_engine(
    tmp_path: Path, make: Callable[[Path], None], reason: str, word_of_keras: str
) -> None:
    make(tmp_path)
    with pytest.raises(NotAModel, match=reason):
        check_archive(tmp_path / "model.keras")
    with pytest.raises(ModelUnloadable, match=f"cannot be loaded: .*{word_of_keras}"):
        check(own(), 3, tmp_path)


def test_the_last_activation_is_found_where_models_have_it(tmp_path: Path) -> None:
    import keras

    nested = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()])
    save(tmp_path, nested)
    check(own(), 3, tmp_path)
    inputs = keras.Input((SIZE, SIZE, 3))
    scores = keras.ops.sigmoid(dense(3, None)(keras.layers.GlobalAvgPool2D()(inputs)))
    keras.Model(inputs, scores).save(tmp_path / "model.keras")
    check(own(activation="sigmoid"), 3, tmp_path)
    with pytest.raises(ModelUnloadable, match="last layer has sigmoid"):
        check(own(), 3, tmp_path)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the weights of a quarter of a MobileNet, of seven classes."""
    import keras

    directory = tmp_path_factory.mktemp("mobilenet")
    model = keras.applications.MobileNet(
        weights=None, input_shape=(SIZE, SIZE, 3), alpha=0.25, classes=7
    )
    model.save_weights(directory / "weights.weights.h5")
    return directory


def test_an_application_is_built_with_its_options(mobilenet: Path) -> None:
    options = {"alpha": 0.25, "classes": 7, "classifier_activation": "sigmoid"}
    spec = application("MobileNet", options=options, activation="sigmoid")
    check(spec, 7, mobilenet)
    options = {"alpha": 0.25, "include_top": False, "pooling": "max"}
    # As Keras does, it takes of the file what it needs.
    check(application("MobileNet", options=options, output="embedding"), 0, mobilenet)


NO_TOP = {"include_top": False, "pooling": "avg"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (application("VGG16", options=NO_TOP), "is not a weights file of VGG16 with"),
        (application("MobileNet", options={"include_top": False}), "pooling has to be avg or max"),
        (application("MobileNet", options={"colour": 1}), "cannot be built for .* with"),
        (application("MobileNet", height=8), "cannot be built for .* with"),
        (application("MobileNetV9"), "keras.applications has no model 'MobileNetV9'"),
        (application("vgg16"), "keras.applications has no model 'vgg16'"),
        (
            application("MobileNet", preprocessing="vgg99", options={"alpha": 0.25, "classes": 7}),
            "keras.applications has no preprocessing 'vgg99'",
        ),
    ],
)
def test_an_application_that_does_not_fit_its_weights_or_options_is_refused(
    mobilenet: Path, spec: ModelSpec, reason: str
) -> None:
    with pytest.raises(ModelUnloadable, match=reason) as refusal:
        check(spec, 7, mobilenet)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_a_model_that_nobody_holds_any_more_is_gone_at_once(tmp_path: Path) -> None:
    import keras

    def variables() -> int:
        return sum(isinstance(thing, keras.Variable) for thing in gc.get_objects())

    save(tmp_path, dense(3, "softmax"))
    gc.collect()
    before = variables()
    gc.disable()  # what is collected by and by, and not at once, does not count
    try:
        engine = make_engine("tensorflow")
        engine.load(own(), tmp_path)
        engine.forward(np.zeros((1, SIZE, SIZE, 3), np.uint8))
        assert variables() > before
        del engine
        assert variables() == before
    finally:
        gc.enable()


def test_the_first_import_holds_nothing_of_those_who_asked_for_it() -> None:
    script = """
import weakref
from worker.engines.protocol import make_engine

class Model:
    pass

def load():
    model = Model()
    make_engine("tensorflow")
    return weakref.ref(model)

assert load()() is None, "the model cannot be exchanged any more"
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        env=OWN_KERAS,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_convolutions_of_one_channel_each_give_what_keras_gives(tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Conv2D(8, 3, strides=2)(inputs)
    for options in ({"strides": 2}, {"dilation_rate": 2, "padding": "same"}, {"groups": 4}):
        layer = keras.layers.Conv2D(8, 3, **{"groups": 8, "activation": "relu"} | options)
        outputs = layer(outputs)
    model = keras.Model(inputs, keras.layers.GlobalAvgPool2D()(outputs))
    model.save(tmp_path / "model.keras")
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    engine = make_engine("tensorflow")
    engine.load(own(output="embedding", scale=1 / 255), tmp_path)
    expected = model.predict(pixels.astype(np.float32) / 255, verbose=0)
    assert expected.std() > 1e-3  # else anything would do
    np.testing.assert_allclose(engine.forward(pixels), expected, rtol=1e-4, atol=1e-6)


def test_an_efficientnet_of_kerass_own_weights_is_built_as_keras_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    options = {"include_top": False, "pooling": "avg"}
    path = tmp_path / "weights.weights.h5"
    keras.utils.set_random_seed(5)
    plain = keras.applications.EfficientNetB0(weights=None, input_shape=(SIZE, SIZE, 3), **options)
    plain.save_weights(path)
    # What would download ImageNet's weights has ours instead.
    monkeypatch.setattr(
        "keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(path)
    )
    keras_own = keras.applications.EfficientNetB0(
        weights="imagenet", input_shape=(SIZE, SIZE, 3), **options
    )
    image = np.random.default_rng(5).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    pixels = image.astype(np.float32)
    expected = keras_own(pixels, training=False).numpy()
    assert plain(pixels, training=False).numpy() != pytest.approx(expected, rel=0.1)
    spec = application(
        "EfficientNetB0",
        preprocessing="efficientnet",
        options=options,
        output="embedding",
        activation="none",
        imagenet_stem=True,
    )
    engine = make_engine("tensorflow")
    engine.load(spec, tmp_path)
    assert engine.forward(image) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_only_the_first_import_is_kept_for_ever() -> None:
    """A model that was made before another engine's import can still go."""
    make_engine("tensorflow")
    frozen = gc.get_freeze_count()
    with quick_import():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen

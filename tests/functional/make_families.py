"""Models with seeded weights, and what Keras itself answers with them; a process of its own.

    python -m tests.functional.make_families DIRECTORY IMAGE…

It says the name of each as soon as its files are there: weights, and `NAME.npy` with the answers.
Freshly initialised models give nearly the same to whatever they see. So their normalisations get
the statistics of the images, and their last layer is scaled until scores differ by far more than
the tolerance of any comparison.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.utils import img_to_array, load_img

# The constructor, and the module whose preprocess_input belongs to it.
FAMILIES = {
    "MobileNetV2": keras.applications.mobilenet_v2,
    "ResNet50": keras.applications.resnet,
    "EfficientNetV2B0": keras.applications.efficientnet_v2,
    "DenseNet121": keras.applications.densenet,
    "ConvNeXtTiny": keras.applications.convnext,
}
SPREAD = 3.0  # standard deviation of what the last layer gives before its activation


def read(paths: list[str], size: int) -> Any:
    """The images as the tutorial reads them: RGB, float32, 0-255."""
    pixels = [img_to_array(load_img(path, target_size=(size, size))) for path in paths]
    return np.stack(pixels)


def enliven(model: keras.Model, images: Any, inverse: Callable[[Any], Any]) -> None:
    """Make a fresh model tell images apart; `inverse` undoes its last activation."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the pass below leaves its own statistics
    scores = np.asarray(model(images, training=True), np.float64)
    spread(model, inverse(scores).std())


def spread(model: keras.Model, deviation: float) -> None:
    """Scale the last layer, whose numbers have this deviation before their activation."""
    kernel = model.layers[-1].kernel
    kernel.assign(kernel * SPREAD / deviation)


def answer(model: keras.Model, images: Any) -> Any:
    """What `predict` gives. That it compiles first changes no number, and takes longer."""
    model.compile(run_eagerly=True)
    return model.predict(images, verbose=0)


def logit(scores: Any) -> Any:
    return np.log(scores / (1 - scores))


def make_family(directory: Path, name: str, paths: list[str]) -> None:
    """One of the families at its usual size, with its thousand classes."""
    model = getattr(keras.applications, name)(weights=None)
    images = FAMILIES[name].preprocess_input(read(paths, 224))
    scales = [layer for layer in model.layers if type(layer).__name__ == "LayerScale"]
    for scale in scales:
        scale.gamma.assign(np.full(scale.gamma.shape, 0.3))  # else the blocks do nothing
    if scales:  # of ConvNeXt, which normalises what its last layer gets
        spread(model, 1.0)
    else:
        enliven(model, images[:3], np.log)
    model.save_weights(directory / f"{name}.weights.h5")
    np.save(directory / f"{name}.npy", answer(model, images))


def make_embeddings(directory: Path, paths: list[str]) -> None:
    """VGG16 without its top: the same weights, and two kinds of pooling."""
    images = keras.applications.vgg16.preprocess_input(read(paths, 224))
    for pooling in ("avg", "max"):
        model = keras.applications.VGG16(weights=None, include_top=False, pooling=pooling)
        if pooling == "avg":
            model.save_weights(directory / "VGG16.weights.h5")
        else:
            model.load_weights(directory / "VGG16.weights.h5")
        np.save(directory / f"VGG16-{pooling}.npy", answer(model, images))


def make_own_vgg16(directory: Path, paths: list[str]) -> None:
    """A VGG16 of seven classes of one's own, of which several may hold."""
    model = keras.applications.VGG16(
        weights=None, input_shape=(64, 64, 3), classes=7, classifier_activation="sigmoid"
    )
    images = keras.applications.vgg16.preprocess_input(read(paths, 64))
    enliven(model, images, logit)
    model.save_weights(directory / "VGG16-7.weights.h5")
    np.save(directory / "VGG16-7.npy", answer(model, images))


def make_colours(directory: Path) -> None:
    """A model of one's own: whether much of a picture is red, green or blue."""
    model = keras.Sequential(
        [
            keras.Input((32, 24, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="sigmoid"),
        ]
    )
    model.layers[-1].set_weights([np.eye(3) * 10, np.full(3, -5)])
    own = directory / "colours"
    own.mkdir()
    model.save(own / "model.keras")
    (own / "labels.txt").write_text("red\ngreen\nblue\n")
    (own / "model.toml").write_text(
        "[input]\nheight = 32\nwidth = 24\n"
        f'[preprocessing]\nkind = "scale"\nscale = {1 / 255}\noffset = 0.0\n'
        '[output]\nactivation = "sigmoid"\n'
    )


def main() -> None:
    """Make all of them, the quickest first."""
    directory, paths = Path(sys.argv[1]), sys.argv[2:]
    keras.utils.set_random_seed(20260101)
    make_colours(directory)
    say("colours")
    make_embeddings(directory, paths)
    say("VGG16")
    make_own_vgg16(directory, paths)
    say("VGG16-7")
    for name in FAMILIES:
        make_family(directory, name, paths)
        say(name)


def say(name: str) -> None:
    """Tell who waits for it."""
    sys.stdout.write(f"{name}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

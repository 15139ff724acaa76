"""Trains the `digits` model and measures it the way it is served."""

from __future__ import annotations

import io
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
MODEL_FILE = HERE / "model.keras"
CONFIG = tomllib.loads((HERE / "model.toml").read_text(encoding="utf-8"))
LABELS = (HERE / "labels.txt").read_text(encoding="utf-8").split()
SIZE = (CONFIG["input"]["width"], CONFIG["input"]["height"])

TRAIN_IMAGES = 1437  # The 360 images after these are never trained on.
SEED = 7
EPOCHS = 75
BATCH_SIZE = 48
LEARNING_RATE = 2e-3
GRAIN = 4  # Pixels of the input, each way, to one pixel of the first learned layer.

NEAREST = Image.Resampling.NEAREST
UPSCALERS = {
    "nearest": NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
UPSCALED_SIZES = (28, 32, 64, 128, 224, 256)

Values = NDArray[np.float64]  # (8, 8), ink from 0 to 16, as scikit-learn has them


def as_image(values: Values, grey_per_ink: float = 255 / 16) -> Image.Image:
    """Draws one digit as an 8x8 grey picture, white on black."""
    return Image.fromarray(np.clip(np.rint(values * grey_per_ink), 0, 255).astype(np.uint8))


def as_served(image: Image.Image) -> NDArray[np.uint8]:
    """Makes a decoded picture the model's input as the service does: uint8 (height, width, 3)."""
    image = image.convert("RGB")
    return np.asarray(image if image.size == SIZE else image.resize(SIZE, NEAREST))


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Applies the preprocessing that model.toml names, as the service does."""
    preprocessing = CONFIG["preprocessing"]
    return pixels.astype(np.float32) * np.float32(preprocessing["scale"]) + np.float32(
        preprocessing["offset"]
    )


def file_bytes(image: Image.Image, kind: str) -> bytes:
    """Encodes a picture as a file of that kind, `PNG` or `JPEG`."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


# ---- training ------------------------------------------------------------------------------------


def distort(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turns, scales, slants and shifts a grey picture a little; what comes in is black."""
    turn, slant = rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15)
    wide, high = rng.uniform(0.85, 1.15, size=2)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[wide, slant], [0.0, high]])
    centre = np.array(image.size) / 2
    shift = centre - matrix @ centre + rng.uniform(-0.09, 0.09, size=2) * image.size
    (a, b), (d, e) = matrix
    return image.transform(
        image.size, Image.Transform.AFFINE, (a, b, shift[0], d, e, shift[1]), UPSCALERS["bicubic"]
    )


def varied(values: Values, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Renders one digit as somebody may hand it in: any size, contrast, blur or file kind."""
    distorted, blurred, as_jpeg = rng.random(3) < (0.85, 0.1, 0.1)
    image = as_image(values, rng.uniform(0.7, 1.0) * 255 / 16)
    # Beyond 128 pixels nothing new is seen, and rendering takes long. A size of 28 (which does not
    # divide the model's 32) and bilinear upscaling (which blurs most) are the hardest to read.
    size = int(rng.choice(UPSCALED_SIZES[:4], p=(0.4, 0.2, 0.2, 0.2)))
    upscaler = UPSCALERS[str(rng.choice(list(UPSCALERS), p=(0.2, 0.4, 0.2, 0.2)))]
    image = image.resize((size, size), upscaler)
    if distorted:
        image = distort(image, rng)
    if blurred:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.01, 0.05) * size))
    if as_jpeg:
        image = Image.open(io.BytesIO(file_bytes(image, "JPEG")))
    return as_served(image)


class VariedDigits(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of the training digits, rendered anew in every epoch."""

    def __init__(self, values: NDArray[np.float64], digits: NDArray[np.int64]) -> None:
        """Keeps the digits; `values` is (n, 8, 8), `digits` is (n,)."""
        super().__init__()
        self.values, self.targets = values, np.eye(len(LABELS), dtype=np.float32)[digits]
        self.rng = np.random.default_rng(SEED)
        self.order = self.rng.permutation(len(values))

    def __len__(self) -> int:
        """Counts the full batches: a small last one would upset the batch normalisation."""
        return len(self.values) // BATCH_SIZE

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Renders one batch."""
        chosen = self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        pixels = np.stack([varied(self.values[position], self.rng) for position in chosen])
        return scaled(pixels), self.targets[chosen]

    def on_epoch_end(self) -> None:
        """Shuffles for the next epoch."""
        self.order = self.rng.permutation(len(self.values))


def build() -> keras.Model:
    """Makes the network: three VGG blocks with batch normalisation, then two dense layers."""
    inputs = keras.Input((SIZE[1], SIZE[0], 3))
    # Colour and detail beyond 8x8 say nothing about a digit. A frozen convolution averages both
    # away: it needs neither a Lambda layer (which the service refuses) nor code of ours to load.
    average = keras.initializers.Constant(1 / (3 * GRAIN**2))
    x = keras.layers.Conv2D(
        1,
        GRAIN,
        strides=GRAIN,
        use_bias=False,
        trainable=False,
        kernel_initializer=average,
        name="grey",
    )(inputs)
    # The distance from the paper, which is what lies at the left and right edges: so the layers
    # that learn see light ink on dark, whichever way round the picture is.
    last = x.shape[2] - 1
    left = keras.layers.Cropping2D((0, (0, last)), name="left")(x)
    right = keras.layers.Cropping2D((0, (last, 0)), name="right")(x)
    edges = keras.layers.Average(name="edges")([left, right])
    paper = keras.layers.GlobalAveragePooling2D(keepdims=True, name="paper")(edges)
    lighter = keras.layers.Subtract(name="lighter")([x, paper])
    darker = keras.layers.Subtract(name="darker")([paper, x])
    x = keras.layers.Maximum(name="ink")([lighter, darker])
    for block, filters in enumerate((32, 64, 96), start=1):
        for convolution in (1, 2):
            name = f"block{block}_conv{convolution}"
            x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
            x = keras.layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dropout(0.4, name="dropout")(x)
    x = keras.layers.Dense(96, activation="relu", name="fc1")(x)
    outputs = keras.layers.Dense(len(LABELS), activation="softmax", name="predictions")(x)
    return keras.Model(inputs, outputs, name="digits")


def train(values: NDArray[np.float64], digits: NDArray[np.int64]) -> keras.Model:
    """Trains a network on the varied digits with a fixed seed; returns it without its optimizer."""
    # With one thread every sum is added up in the same order, so the same weights come out again.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(SEED)
    batches = VariedDigits(values, digits)
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, len(batches) * EPOCHS, warmup_target=LEARNING_RATE, warmup_steps=2 * len(batches)
    )
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.05)
    # Left to itself Keras compiles with XLA, which takes twice as long on a CPU.
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01),
        loss,
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(batches, epochs=EPOCHS, shuffle=False, verbose=2)
    # A compiled model is saved with its optimizer, which trebles the file and serves nobody.
    bare = build()
    bare.set_weights(model.get_weights())
    return bare


# ---- measuring -----------------------------------------------------------------------------------


def scores_of(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gives the scores (n, labels) of pictures (n, height, width, 3) in one pass."""
    scores: NDArray[np.float32] = keras.ops.convert_to_numpy(model(scaled(pixels), training=False))
    return scores


def correct(model: keras.Model, files: list[bytes], digits: NDArray[np.int64]) -> int:
    """Counts the image files that the model recognises, fed the way the service feeds it."""
    pixels = np.stack([as_served(Image.open(io.BytesIO(data))) for data in files])
    return int((scores_of(model, pixels).argmax(axis=1) == digits).sum())


def renderings(values: NDArray[np.float64]) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yields the ways in which somebody may draw these digits, each with its name."""
    plain = [as_image(each) for each in values]
    yield "8x8, value * 255/16, rounded", plain
    yield (
        "8x8, value * 255/16, cut",
        [Image.fromarray((each * 255 / 16).astype(np.uint8)) for each in values],
    )
    yield "8x8, value * 16, clipped", [as_image(each, 16) for each in values]
    for name, upscaler in UPSCALERS.items():
        for size in UPSCALED_SIZES:
            yield (
                f"{size}x{size}, {name}",
                [image.resize((size, size), upscaler) for image in plain],
            )


def evaluate(model: keras.Model, values: NDArray[np.float64], digits: NDArray[np.int64]) -> None:
    """Prints how many are recognised of each rendering: as PNG, as JPEG and dark on light."""
    click.echo(f"{f'correct of {len(values)}':<30} {'PNG':>5} {'JPEG':>5} {'inverted':>9}")
    for name, images in renderings(values):
        counts = [
            correct(model, [file_bytes(image, "PNG") for image in images], digits),
            correct(model, [file_bytes(image, "JPEG") for image in images], digits),
            correct(model, [file_bytes(ImageOps.invert(image), "PNG") for image in images], digits),
        ]
        click.echo(f"{name:<30} {counts[0]:>5} {counts[1]:>5} {counts[2]:>9}")


def write_samples(
    model: keras.Model, values: NDArray[np.float64], digits: NDArray[np.int64], folder: Path
) -> None:
    """Writes digit-0.png to digit-9.png, 128x128: of each the most typical one recognised."""
    folder.mkdir(parents=True, exist_ok=True)
    # Sixteen greys are nearly all that the data has, and they keep each file small.
    images = [
        as_image(each).resize((128, 128), UPSCALERS["bicubic"]).quantize(16) for each in values
    ]
    recognised = (
        scores_of(model, np.stack([as_served(image) for image in images])).argmax(axis=1) == digits
    )
    for digit, label in enumerate(LABELS):
        distance = np.square(values - values[digits == digit].mean(axis=0)).sum(axis=(1, 2))
        typical = int(np.where((digits == digit) & recognised, distance, np.inf).argmin())
        images[typical].save(folder / f"digit-{label}.png", optimize=True)


@click.command()
@click.option(
    "--evaluate",
    "only_evaluate",
    is_flag=True,
    help="Measure the model that is there; train nothing.",
)
@click.option(
    "--samples",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write sample pictures here.",
)
def main(only_evaluate: bool, samples: Path | None) -> None:
    """Trains the digits model, writes model.keras beside this script, prints how well it reads."""
    data: Any = load_digits()
    held_out = data.images[TRAIN_IMAGES:], data.target[TRAIN_IMAGES:]
    if not only_evaluate:
        started = time.monotonic()
        train(data.images[:TRAIN_IMAGES], data.target[:TRAIN_IMAGES]).save(MODEL_FILE)
        click.echo(f"trained in {time.monotonic() - started:.0f} s")
    # What is measured is the file, read as the service reads it.
    model = keras.saving.load_model(MODEL_FILE, compile=False, safe_mode=True)
    click.echo(f"{model.count_params():,} parameters, {MODEL_FILE.stat().st_size:,} bytes")
    evaluate(model, *held_out)
    if samples is not None:
        write_samples(model, *held_out, samples)


if __name__ == "__main__":
    main()

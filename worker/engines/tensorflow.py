"""The reference engine: Keras on TensorFlow, one concrete function with a free batch dimension."""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from shared.memory import give_back_freed
from shared.models import ModelSpec
from worker.engines import keras_model
from worker.engines.protocol import ModelUnloadable, OutOfMemory


class TensorFlowEngine:
    """One version on TensorFlow; see `Engine`."""

    def __init__(self) -> None:
        for gpu in tf.config.list_physical_devices("GPU"):
            # Otherwise TensorFlow takes all of the card's memory for itself.
            tf.config.experimental.set_memory_growth(gpu, True)
        self._forward: Any = None

    def load(self, spec: ModelSpec, directory: Path) -> None:
        """See `Engine.load`."""
        model = keras_model.build(spec, directory)
        preprocess = keras_model.preprocessing(spec)

        def serve(batch: Any) -> Any:
            output = model(preprocess(tf.cast(batch, tf.float32)), training=False)
            return tf.cast(output, tf.float32)

        # Traced once, for any batch size: nothing is traced while serving, nothing padded.
        shape = tf.TensorSpec((None, spec.height, spec.width, 3), tf.uint8)
        self._forward = tf.function(
            serve, input_signature=[shape], autograph=False
        ).get_concrete_function()

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.forward`."""
        try:
            scores: NDArray[np.float32] = self._forward(tf.constant(batch)).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemory(f"no memory for a batch of {len(batch)}") from error
        return scores

    def __del__(self) -> None:
        """Give the memory back at once, to the system: another model may be waiting for it.

        A model and its graph hold each other in circles, and the C library keeps what is freed.
        """
        if self._forward is not None and not sys.is_finalizing():
            self._forward = None
            gc.collect()
            give_back_freed()


def check_weights(spec: ModelSpec, labels: Sequence[tuple[str, str]], directory: Path) -> None:
    """Prove that a version can be served: it loads, passes an image, and its output fits.

    Raises:
        ModelUnloadable: It cannot, and why.
    """
    model = keras_model.build(spec, directory)
    numbers = model.output_shape[-1]
    if spec.output == "embedding":
        if labels:
            raise ModelUnloadable(f"an embedding has no labels, and {len(labels)} were given")
    else:
        if numbers != len(labels):
            raise ModelUnloadable(f"the model gives {numbers} scores for {len(labels)} labels")
        found = keras_model.last_activation(model)
        if found not in {None, spec.activation}:
            raise ModelUnloadable(
                f"the activation is said to be {spec.activation}, but the model's last layer has "
                f"{found}"
            )
    grey = np.full((1, spec.height, spec.width, 3), 127, np.float32)
    try:
        output = model(keras_model.preprocessing(spec)(tf.constant(grey)), training=False)
    except tf.errors.OpError as error:
        raise ModelUnloadable(f"the model fails on a grey image: {error.message}") from error
    if not np.isfinite(output).all():
        raise ModelUnloadable(
            "the model gives numbers that are not finite for a grey image; its weights are damaged"
        )

"""The reference engine: Keras on TensorFlow, one concrete function with a free batch dimension."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# TensorFlow's start-up lines about the CPU help nobody; its warnings and errors stay.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from shared.models import ModelSpec
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
        model = _build(spec, directory)
        preprocess = _preprocessing(spec)

        def serve(batch: Any) -> Any:
            return model(preprocess(tf.cast(batch, tf.float32)), training=False)

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


def check_weights(spec: ModelSpec, directory: Path) -> None:
    """Prove that a version can be loaded, by loading it.

    Raises:
        ModelUnloadable: It cannot, and why.
    """
    _build(spec, directory)


def _build(spec: ModelSpec, directory: Path) -> keras.Model:
    path = directory / spec.weights
    try:
        if spec.architecture == "directory":
            # Safe mode refuses code in the file (Lambda layers); it is the default, and said here.
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        else:
            constructor = getattr(keras.applications, spec.architecture)
            model = constructor(weights=None, **spec.options)
            model.load_weights(path)
    except Exception as error:  # Keras raises ValueError, KeyError, OSError, TypeError and others
        raise ModelUnloadable(
            f"{path.name} is not a weights file of {spec.architecture}: {error}"
        ) from error
    expected = (None, spec.height, spec.width, 3)
    if tuple(model.input_shape) != expected:
        raise ModelUnloadable(f"the model takes {model.input_shape}, not {expected}")
    return model


def _preprocessing(spec: ModelSpec) -> Callable[[Any], Any]:
    if spec.preprocessing == "scale":
        return lambda batch: batch * spec.scale + spec.offset
    module = getattr(keras.applications, spec.preprocessing)
    preprocess: Callable[[Any], Any] = module.preprocess_input
    return preprocess

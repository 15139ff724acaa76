"""Weights that were never trained: what Keras's constructor makes of `weights=None`."""

from pathlib import Path

import keras

from shared.models import ModelSpec
from worker.engines import keras_model

_SEED = 0


def save_random_weights(spec: ModelSpec, path: Path) -> None:
    """Write the seeded random weights of an application to `path`, in the format of Keras 3.

    Raises:
        ModelUnloadable: Keras does not build the application with these options.
    """
    keras.utils.set_random_seed(_SEED)
    keras_model.construct(spec).save_weights(path)

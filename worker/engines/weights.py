"""Weights that were never trained: what Keras's constructor makes of `weights=None`."""

from pathlib import Path

import keras

from shared.models import ModelSpec
from worker.engines.protocol import ModelUnloadable

_SEED = 0


def save_random_weights(spec: ModelSpec, path: Path) -> None:
    """Write the seeded random weights of an application to `path`, in the format of Keras 3.

    Raises:
        ModelUnloadable: Keras does not build the application with these options.
    """
    keras.utils.set_random_seed(_SEED)
    try:
        model = getattr(keras.applications, spec.architecture)(
            weights=None, input_shape=(spec.height, spec.width, 3), **spec.options
        )
    except ValueError as error:
        raise ModelUnloadable(f"Keras does not build this {spec.architecture}: {error}") from error
    model.save_weights(path)

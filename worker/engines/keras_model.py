"""The Keras model of a version, built from its spec and its files; or the reason why it cannot be.

Keras's own words for a refusal run to pages; what people read here is a sentence.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from shared.models import ModelSpec
from worker.engines.protocol import ModelUnloadable

# As the models expect it, whatever ~/.keras/keras.json says.
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")

# https://github.com/keras-team/keras/blob/master/keras/src/applications/efficientnet.py
_IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)

_QUOTED = 300  # characters of an error of Keras


def build(spec: ModelSpec, directory: Path) -> keras.Model:
    """The model with its weights; it takes (n, height, width, 3) and gives one row an image.

    Raises:
        ModelUnloadable: The files do not fit the spec.
    """
    path = directory / spec.weights
    model = _from_archive(path) if spec.architecture == "directory" else _constructed(spec, path)
    wanted = (None, spec.height, spec.width, 3)
    if not _takes(model.input_shape, wanted):
        raise ModelUnloadable(f"the model takes {model.input_shape}, not {wanted}")
    given = model.output_shape
    if not isinstance(given, tuple) or len(given) != 2:  # noqa: PLR2004
        raise ModelUnloadable(
            f"the model gives {given}, not one row of numbers for an image; a model without its "
            "top has to end in a pooling layer"
        )
    _use_depthwise(model)
    return model


def preprocessing(spec: ModelSpec) -> Callable[[Any], Any]:
    """What is done to the pixels (float32, RGB, 0-255) before the model gets them.

    Raises:
        ModelUnloadable: Keras has no such preprocessing.
    """
    if spec.preprocessing == "scale":
        return lambda batch: batch * spec.scale + spec.offset
    module = getattr(keras.applications, spec.preprocessing, None)
    preprocess: Callable[[Any], Any] | None = getattr(module, "preprocess_input", None)
    if preprocess is None:
        raise ModelUnloadable(f"keras.applications has no preprocessing {spec.preprocessing!r}")
    return preprocess


def last_activation(model: keras.Model) -> str | None:
    """What the numbers are by the model's own last step, in the words of `ModelSpec.activation`.

    None where it cannot be told: the last step is of another kind, such as a reshaping.
    """
    last = model.outputs[0]._keras_history.operation  # no public way leads there
    if isinstance(last, keras.Model):
        return last_activation(last)
    function = getattr(last, "activation", None)
    name = getattr(function, "__name__", None) or type(last).__name__.lower()
    if name in {"softmax", "sigmoid"}:
        return name
    return "none" if function is not None else None


def construct(spec: ModelSpec) -> keras.Model:
    """The application of a spec as Keras makes it of `weights=None`: with random weights.

    Raises:
        ModelUnloadable: Keras does not build it with these options.
    """
    name = spec.architecture
    constructor = getattr(keras.applications, name, None)
    if not callable(constructor):
        raise ModelUnloadable(f"keras.applications has no model {name!r}")
    if spec.options.get("include_top") is False and not spec.options.get("pooling"):
        raise ModelUnloadable(
            f"{name} without its top gives no row of numbers: pooling has to be avg or max"
        )
    shape = (spec.height, spec.width, 3)
    try:
        return constructor(weights=None, input_shape=shape, **spec.options)
    except Exception as error:  # each constructor checks its options in its own way
        raise ModelUnloadable(
            f"{name} cannot be built for {shape} with {spec.options}: {_quoted(error)}"
        ) from error


def _constructed(spec: ModelSpec, path: Path) -> keras.Model:
    model = construct(spec)
    try:
        model.load_weights(path)
    except Exception as error:  # Keras raises ValueError, KeyError, OSError, TypeError and others
        raise ModelUnloadable(
            f"{path.name} is not a weights file of {spec.architecture} with "
            f"{spec.options or 'its defaults'}: {_quoted(error)}"
        ) from error
    if spec.imagenet_stem:
        _scale_as_for_imagenet(model)
    return model


def _scale_as_for_imagenet(model: keras.Model) -> None:
    """Do what a layer does that Keras adds for its own weights only: divide by √deviation."""
    normalization = next(x for x in model.layers if isinstance(x, keras.layers.Normalization))
    normalization.adapt_variance.assign(normalization.adapt_variance * _IMAGENET_DEVIATIONS)
    normalization.finalize_state()


def _from_archive(path: Path) -> keras.Model:
    try:
        # Safe mode refuses code in the file; it is the default, and said here. (`ops.archive` has
        # looked for it before the file was installed, and says it better.)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises ValueError, KeyError, OSError, TypeError and others
        raise ModelUnloadable(f"{path.name} cannot be loaded: {_quoted(error)}") from error


def _takes(shape: Any, wanted: tuple[int | None, ...]) -> bool:
    """Whether an input fits; where the model says None it takes any size."""
    return (
        isinstance(shape, tuple)
        and len(shape) == len(wanted)
        and shape[0] is None
        and all(own in {None, size} for own, size in zip(shape, wanted, strict=True))
    )


def _use_depthwise(model: keras.Model) -> None:
    """Compute convolutions in groups of one channel (ConvNeXt has them) as depthwise ones.

    TensorFlow has no grouped convolutions on a CPU. Keras compiles each with XLA instead, again
    for every size of a batch, and what comes out is several times slower.
    """
    for layer in _layers(model):
        grouped = type(layer) is keras.layers.Conv2D and layer.groups > 1
        if grouped and layer.kernel.shape[-2] == 1 and layer.groups == layer.filters:
            layer.convolution_op = partial(_depthwise, layer)


def _depthwise(layer: keras.layers.Conv2D, inputs: Any, kernel: Any) -> Any:
    return keras.ops.depthwise_conv(
        inputs,
        tf.transpose(kernel, (0, 1, 3, 2)),
        strides=layer.strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _quoted(error: Exception) -> str:
    """The beginning of what Keras says, on one line; of an error inside an error, the inner one."""
    text = " ".join(str(error).rpartition("Exception encountered: ")[2].split())
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"

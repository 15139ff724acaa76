"""What computes the forward pass; the only place that imports keras or tensorflow.

Both read these variables when they are imported, so they are set before any module of ours can.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# TensorFlow's start-up lines about the CPU help nobody; its warnings and errors stay.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# Somebody's own Keras may be set to another backend, by this variable or in ~/.keras/keras.json.
os.environ["KERAS_BACKEND"] = "tensorflow"


@contextmanager
def quick_import() -> Iterator[None]:
    """Import TensorFlow and Keras a tenth faster.

    The million objects that they make stay for ever: nobody looks among them for what can go.
    """
    if "tensorflow" in sys.modules:
        yield  # and what was made since, such as a model, must go when it is exchanged
        return
    gc.disable()
    try:
        yield
    finally:
        # Circles of frames that are done: frozen, they would hold whoever asks for the import, and
        # the first model with it.
        gc.collect()
        gc.freeze()
        gc.enable()

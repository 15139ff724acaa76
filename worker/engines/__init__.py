"""What computes the forward pass; the only place that imports keras or tensorflow.

Both read these variables when they are imported, so they are set before any module of ours can.
"""

import os

# TensorFlow's start-up lines about the CPU help nobody; its warnings and errors stay.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# Somebody's own Keras may be set to another backend, by this variable or in ~/.keras/keras.json.
os.environ["KERAS_BACKEND"] = "tensorflow"

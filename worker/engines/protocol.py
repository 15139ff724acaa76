"""What an engine is: it loads one model version and computes its forward pass."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import ServiceError
from shared.models import ModelSpec
from worker.engines import quick_import


class ModelUnloadable(ServiceError):
    """The files of a version are not what its spec says."""


class OutOfMemory(ServiceError):
    """The device has no memory for a pass of this size; a smaller one may fit."""


class Engine(Protocol):
    """Computes one model version. Calls of `forward` are serialized by the forward lock."""

    def load(self, spec: ModelSpec, directory: Path) -> None:
        """Load the version whose files lie in `directory`; afterwards nothing is traced.

        Raises:
            ModelUnloadable: The files do not fit the spec.
        """

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scores of a batch.

        Args:
            batch: Images as RGB, shape (n, height, width, 3), 0-255, for any n >= 1.

        Returns:
            Shape (n, classes): what the model's last activation gives.

        Raises:
            OutOfMemory: The device cannot hold the pass.
        """


def make_engine(name: str) -> Engine:
    """The engine that a version names."""
    if name == "tensorflow":
        # Takes seconds, and only a process that serves such a version needs it.
        with quick_import():
            from worker.engines.tensorflow import TensorFlowEngine  # noqa: PLC0415

        return TensorFlowEngine()
    raise ModelUnloadable(f"there is no engine {name!r}")

"""From what a model gives for one image to its result: ranked predictions, or an embedding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.jobs.recording import Embedding, Failure, Predictions, Result
from shared.models import Version

_KEPT = 20  # the largest top_k
_ALL_OF = 100  # models with at most this many classes keep all their scores


def to_result(output: NDArray[np.float32], version: Version) -> Result | Failure:
    """The result of one image.

    Args:
        output: Shape (classes,), or (numbers,) of an embedding.
        version: Says which of the two it is, and has the labels.
    """
    if not np.isfinite(output).all():
        return Failure("inference_failed", "The model's scores are not finite numbers.")
    if version.spec.output == "embedding":
        return Embedding(output.astype("<f4").tobytes())
    return rank(output, version.labels)


def rank(scores: NDArray[np.float32], labels: Sequence[tuple[str, str]]) -> Predictions:
    """The best predictions of one image, best first; of equal scores the lower index first.

    Args:
        scores: Shape (classes,).
        labels: (class_id, label) in the order of the model's output.
    """
    kept = len(scores) if len(scores) <= _ALL_OF else _KEPT
    best = np.argsort(-scores, kind="stable")[:kept]
    return [(*labels[index], float(scores[index])) for index in best]

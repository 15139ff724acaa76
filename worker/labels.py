"""From scores to ranked predictions with labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.jobs.recording import Failure, Predictions

_KEPT = 20  # the largest top_k
_ALL_OF = 100  # models with at most this many classes keep all their scores


def rank(scores: NDArray[np.float32], labels: Sequence[tuple[str, str]]) -> Predictions | Failure:
    """The best predictions of one image, best first; of equal scores the lower index first.

    Args:
        scores: Shape (classes,).
        labels: (class_id, label) in the order of the model's output.
    """
    if not np.isfinite(scores).all():
        return Failure("inference_failed", "The model's scores are not finite numbers.")
    kept = len(scores) if len(scores) <= _ALL_OF else _KEPT
    best = np.argsort(-scores, kind="stable")[:kept]
    return [(*labels[index], float(scores[index])) for index in best]

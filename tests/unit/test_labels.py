"""From what a model gives to ranked predictions, or an embedding."""

import numpy as np
import pytest

from shared.jobs.recording import Embedding, Failure
from shared.models import ModelSpec, Version
from worker.labels import rank, to_result


def labels(count: int) -> list[tuple[str, str]]:
    return [(f"n{index:04}", f"label {index}") for index in range(count)]


def test_the_best_come_first_with_their_labels() -> None:
    scores = np.array([0.1, 0.7, 0.2], np.float32)
    ranked = rank(scores, labels(3))
    assert isinstance(ranked, list)
    assert [(class_id, label) for class_id, label, _ in ranked] == [
        ("n0001", "label 1"),
        ("n0002", "label 2"),
        ("n0000", "label 0"),
    ]
    assert [score for *_, score in ranked] == pytest.approx([0.7, 0.2, 0.1])
    assert all(type(score) is float for *_, score in ranked)


def test_of_equal_scores_the_lower_index_comes_first() -> None:
    ranked = rank(np.array([0.25, 0.3, 0.25, 0.3, 0.25] * 40, np.float32), labels(200))
    assert isinstance(ranked, list)
    expected = [index for index in range(200) if index % 5 in (1, 3)][:20]
    assert [class_id for class_id, *_ in ranked] == [f"n{index:04}" for index in expected]


@pytest.mark.parametrize(("classes", "kept"), [(2, 2), (10, 10), (100, 100), (101, 20), (1000, 20)])
def test_a_model_with_few_classes_keeps_all_scores(classes: int, kept: int) -> None:
    scores = np.linspace(0, 1, classes, dtype=np.float32)
    ranked = rank(scores, labels(classes))
    assert isinstance(ranked, list)
    assert len(ranked) == kept
    assert [score for *_, score in ranked] == sorted(scores.tolist(), reverse=True)[:kept]


def version(output: str, count: int) -> Version:
    spec = ModelSpec("VGG16", "weights.h5", 224, 224, "vgg16", "0" * 64, 1000, output=output)
    return Version(1, "model", "0123456789ab", spec, tuple(labels(count)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", ["scores", "embedding"])
def test_numbers_that_are_none_are_a_failure(bad: float, output: str) -> None:
    result = to_result(np.array([0.5, bad, 0.1], np.float32), version(output, 3))
    assert isinstance(result, Failure)
    assert result.code == "inference_failed"


def test_an_embedding_is_kept_as_it_is() -> None:
    numbers = np.array([0.25, -3e-8, 12345.678], np.float32)
    result = to_result(numbers, version("embedding", 0))
    assert isinstance(result, Embedding)
    assert np.array_equal(np.frombuffer(result.data, "<f4"), numbers)

"""Which model version gives way where there is no room for two."""

import pytest

from shared.models import ModelSpec, Version
from shared.settings import Settings
from worker.room import Room
from worker.serving import LoadedModel

TOO_LARGE = 10**15


def version(id_: int, *, size_bytes: int = 1) -> Version:
    spec = ModelSpec("VGG16", "weights.h5", 224, 224, "vgg16", "0" * 64, size_bytes)
    return Version(id_, "model", f"{id_:012}", spec, ())


def loaded(id_: int, *, at: float = 0, served: float | None = None) -> LoadedModel:
    model = LoadedModel(version(id_), engine=None, batch_limit=8, loaded_at=at)  # type: ignore[arg-type]
    if served is not None:
        model.served_at["bulk"] = served
    return model


def room(**settings: float) -> Room:
    return Room(Settings(_env_file=None, **{"max_loaded_versions": 1, **settings}))


def test_there_is_room_until_the_limit() -> None:
    assert room().lack(version(1), []) is None
    lack = room().lack(version(2), [loaded(1)])
    assert lack == "model@000000000002 waits: this worker holds at most 1 model versions at once."
    assert room(max_loaded_versions=0).lack(version(3), [loaded(1), loaded(2)]) is None


def test_memory_is_looked_at_before_a_model_is_loaded() -> None:
    lack = room().lack(version(1, size_bytes=TOO_LARGE), [])
    assert lack is not None and "GB are free" in lack


def test_who_has_no_jobs_gives_way_at_once_the_one_served_longest_ago_first() -> None:
    held = [loaded(1, served=30), loaded(2, served=20), loaded(3, served=10)]
    jobs = {1: False, 2: False, 3: True, 4: True}
    assert room(max_loaded_versions=3).gives_way(version(4), held, jobs) == 2


def test_a_version_that_is_wanted_no_more_gives_way() -> None:
    assert room().gives_way(version(2), [loaded(1)], {2: True}) == 1


def test_of_two_with_jobs_one_waits_for_the_other() -> None:
    jobs = {1: True, 2: True, 3: True}
    held = [loaded(1, at=20), loaded(2, at=10)]
    assert room(exchange_seconds=60).gives_way(version(3), held, jobs) is None
    patient = room(exchange_seconds=1e-9)
    patient.gives_way(version(3), held, jobs)
    assert patient.gives_way(version(3), held, jobs) == 2


@pytest.mark.parametrize("held", [[], [loaded(1)]])
def test_nobody_gives_way_in_vain(held: list[LoadedModel]) -> None:
    assert room().gives_way(version(2, size_bytes=TOO_LARGE), held, {2: True}) is None

"""The registry of models: what a name stands for, and who may download."""

from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from shared import models
from shared.database import Database, new_id
from shared.errors import ProblemError
from shared.models import Target, resolve
from shared.tables import LANES, lanes, model_versions
from tests.integration.helpers import LABELS, MODEL, SPEC, VERSION, Stage, in_threads


def ask(database: Database, named: str) -> Target:
    with database.read() as connection:
        return resolve(connection, named)


def refused(database: Database, named: str) -> ProblemError:
    with pytest.raises(ProblemError) as problem:
        ask(database, named)
    return problem.value


def known(database: Database, name: str) -> Any:
    with database.read() as connection:
        return next(model for model in models.states(connection) if model.name == name)


def begin(stage: Stage, lease_seconds: float = 60) -> Any:
    """Take the download of `vgg16`: its token, or None."""
    token = new_id()
    taken = stage.database.transact(
        lambda c: models.begin_download(c, "vgg16", token, lease_seconds)
    )
    return token if taken else None


@pytest.fixture
def vgg16(stage: Stage) -> Stage:
    """A stage on which `vgg16` is known too, and not installed."""
    stage.database.transact(lambda c: models.register(c, "vgg16"))
    return stage


def test_a_name_stands_for_the_current_version(stage: Stage) -> None:
    assert ask(stage.database, MODEL) == Target(stage.version_id, pinned=False)
    newer = stage.install()
    assert ask(stage.database, MODEL) == Target(newer, pinned=False)


def test_a_named_version_is_pinned(stage: Stage) -> None:
    stage.install()
    assert ask(stage.database, f"{MODEL}@{VERSION}") == Target(stage.version_id, pinned=True)


@pytest.mark.parametrize("named", ["cat", "cat@1", f"{MODEL}@cat", f"{MODEL}@", "", "@", "DIGITS"])
def test_what_is_unknown_is_refused(stage: Stage, named: str) -> None:
    problem = refused(stage.database, named)
    assert problem.code == "model_unknown"


def test_an_unknown_model_is_told_which_there_are(vgg16: Stage) -> None:
    detail = refused(vgg16.database, "cat").detail
    assert "digits" in detail
    assert "vgg16" in detail


def test_a_model_that_is_not_installed_says_what_mends_it(vgg16: Stage) -> None:
    problem = refused(vgg16.database, "vgg16")
    assert problem.code == "model_unavailable"
    assert problem.retry_after_seconds
    assert "classify models pull vgg16" in problem.detail
    assert "classify models import vgg16" in problem.detail


def test_no_version_of_a_model_that_is_not_installed_can_be_pinned(vgg16: Stage) -> None:
    assert refused(vgg16.database, "vgg16@None").code == "model_unknown"


def test_while_a_model_is_downloaded_its_jobs_queue(vgg16: Stage) -> None:
    token = begin(vgg16)
    target = ask(vgg16.database, "vgg16")
    assert not target.pinned
    assert vgg16.submit(target=target).queued
    vgg16.database.transact(lambda c: models.end_download(c, token, "the network is away."))
    problem = refused(vgg16.database, "vgg16")
    assert problem.code == "model_unavailable"
    assert "the network is away." in problem.detail


def test_a_removed_version_cannot_be_pinned(stage: Stage) -> None:
    stage.install()
    stage.change(
        model_versions,
        where=model_versions.c.id == stage.version_id,
        removed_at=model_versions.c.installed_at,
    )
    assert refused(stage.database, f"{MODEL}@{VERSION}").code == "model_unknown"
    # Installed once more, it is known again by the same id.
    assert stage.install(VERSION) == stage.version_id
    assert ask(stage.database, f"{MODEL}@{VERSION}") == Target(stage.version_id, pinned=True)


def test_installing_twice_is_one_version_with_its_lanes(stage: Stage) -> None:
    assert stage.install(VERSION) == stage.version_id
    with stage.database.read() as connection:
        assert [row.version for row in models.versions_of(connection, MODEL)] == [VERSION]
        found = connection.scalars(
            select(lanes.c.lane).where(lanes.c.model_version == stage.version_id)
        )
        assert sorted(found) == sorted(LANES)


def test_an_installed_version_is_loaded_as_it_was_installed(stage: Stage) -> None:
    with stage.database.read() as connection:
        version = models.load_version(connection, stage.version_id)
    assert (version.spec, version.labels) == (SPEC, LABELS)
    assert version.name == f"{MODEL}@{VERSION}"


def test_versions_are_listed_newest_first_without_the_placeholder(stage: Stage) -> None:
    stage.install("ffffffffffff")
    with stage.database.read() as connection:
        found = [row.version for row in models.versions_of(connection, MODEL)]
    assert found == ["ffffffffffff", VERSION]


def test_an_older_version_can_be_made_current(stage: Stage) -> None:
    stage.install()
    stage.database.transact(lambda c: models.make_current(c, MODEL, stage.version_id))
    assert ask(stage.database, MODEL) == Target(stage.version_id, pinned=False)


def test_registering_at_once_makes_one_placeholder(stage: Stage) -> None:
    in_threads(4, lambda n: stage.database.transact(lambda c: models.register(c, "vgg16")))

    def placeholders(connection: Connection) -> int:
        return (
            connection.scalar(
                select(func.count())
                .select_from(model_versions)
                .where(model_versions.c.model == "vgg16")
            )
            or 0
        )

    with stage.database.read() as connection:
        assert placeholders(connection) == 1


def test_one_process_downloads(vgg16: Stage) -> None:
    assert sum(token is not None for token in in_threads(4, lambda n: begin(vgg16))) == 1
    assert known(vgg16.database, "vgg16").downloading


def test_a_download_whose_process_ended_is_taken_over(vgg16: Stage) -> None:
    lost = begin(vgg16, lease_seconds=-1)
    assert lost is not None
    assert not known(vgg16.database, "vgg16").downloading
    token = begin(vgg16)
    assert token is not None
    # The first one comes back late, and changes nothing.
    vgg16.database.transact(lambda c: models.renew_download(c, lost, 5, 10, 60))
    vgg16.database.transact(lambda c: models.end_download(c, lost, "late"))
    state = known(vgg16.database, "vgg16")
    assert (state.download_token, state.download_bytes, state.download_error) == (token, 0, None)


def test_who_comes_back_with_its_own_token_goes_on_at_once(vgg16: Stage) -> None:
    token = begin(vgg16)
    assert vgg16.database.transact(lambda c: models.begin_download(c, "vgg16", token, 60))
    assert not begin(vgg16)


def test_a_download_tells_how_far_it_is_until_it_ends(vgg16: Stage) -> None:
    token = begin(vgg16)
    vgg16.database.transact(lambda c: models.renew_download(c, token, 5, 10, 60))
    state = known(vgg16.database, "vgg16")
    assert (state.downloading, state.download_bytes, state.download_total_bytes) == (True, 5, 10)
    vgg16.database.transact(lambda c: models.end_download(c, token, None))
    assert not known(vgg16.database, "vgg16").downloading
    assert begin(vgg16) is not None


def test_installing_forgets_the_download_that_failed(vgg16: Stage) -> None:
    token = begin(vgg16)
    vgg16.database.transact(lambda c: models.end_download(c, token, "the network is away."))
    vgg16.install("0" * 12, name="vgg16")
    assert known(vgg16.database, "vgg16").download_error is None

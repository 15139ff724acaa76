"""Settings: what comes before what, and that no mistake is silent."""

from pathlib import Path

import pytest

from scripts import settings_page
from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings

SECRET = "postgresql://anna:hunter2@db/classifier"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory without `.env` and an environment without our names."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("CLASSIFIER_", "DATABASE_URL", "REDIS_URL", "AWS_")):
            monkeypatch.delenv(name)


def write_env(**values: str) -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def test_flag_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = load_settings().web_threads
    write_env(CLASSIFIER_WEB_THREADS="11")
    assert load_settings().web_threads == 11 != default
    monkeypatch.setenv("CLASSIFIER_WEB_THREADS", "12")
    assert load_settings().web_threads == 12
    assert load_settings(web_threads=13).web_threads == 13
    assert load_settings(web_threads=None).web_threads == 12  # a flag that was not given


def test_the_order_holds_for_names_of_the_ecosystem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().database.startswith("sqlite:////")
    assert load_settings().broker is None
    write_env(DATABASE_URL="sqlite:///file.db", REDIS_URL="redis://file")
    assert load_settings().database == "sqlite:///file.db"
    assert load_settings().broker == "redis://file"
    monkeypatch.setenv("DATABASE_URL", "sqlite:///environment.db")
    assert load_settings().database == "sqlite:///environment.db"
    assert load_settings(database_url="sqlite:///flag.db").database == "sqlite:///flag.db"


def test_without_a_url_the_database_lies_in_the_data_directory(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "state")
    assert settings.database == f"sqlite:///{tmp_path / 'state' / 'classifier.db'}"


@pytest.mark.parametrize(
    "name", ["CLASSIFIER_WEB_THREDS", "CLASSIFIER_", "CLASSIFIER_DATABASE_URL"]
)
def test_a_name_that_would_be_ignored_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "5")
    with pytest.raises(ConfigurationError, match=rf"{name}\b|{name}$"):
        load_settings()


def test_a_mistyped_name_in_the_file_is_an_error_too() -> None:
    write_env(CLASSIFIER_BNID="127.0.0.1:80", CLASSIFIER_LOG_LEVLE="debug")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "CLASSIFIER_BNID" in str(refused.value)
    assert "CLASSIFIER_LOG_LEVLE" in str(refused.value)


def test_other_names_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFY", "x")
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    write_env(ANOTHER="x")
    load_settings()


def test_every_bad_value_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_WEB_THREADS", "many")
    monkeypatch.setenv("CLASSIFIER_MAX_BATCH_SIZE", "0")
    monkeypatch.setenv("CLASSIFIER_BIND", "localhost")
    monkeypatch.setenv("CLASSIFIER_LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    for name in ("WEB_THREADS", "MAX_BATCH_SIZE", "BIND", "LOG_LEVEL"):
        assert f"CLASSIFIER_{name}" in str(refused.value)


def test_secrets_may_come_as_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "secret"))
    assert load_settings().database == SECRET
    assert load_settings().broker == SECRET
    assert load_settings(database_url="sqlite:///flag.db").database == "sqlite:///flag.db"


def test_a_secret_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL_FILE", "/not/there")
    with pytest.raises(ConfigurationError, match="/not/there"):
        load_settings()


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", SECRET)
    monkeypatch.setenv("REDIS_URL", SECRET)
    settings = load_settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hunter2" not in shown
    monkeypatch.setenv("CLASSIFIER_BIND", "localhost")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_names_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLASSIFIER_MODELS", "vgg16, digits,")
    monkeypatch.setenv("CLASSIFIER_DOWNLOAD", "")
    settings = load_settings()
    assert settings.models == ("vgg16", "digits")
    assert settings.download == ()


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        (":8000", ("127.0.0.1", 8000)),
        ("[::1]:8000", ("::1", 8000)),
    ],
)
def test_an_address_is_host_and_port(bind: str, expected: tuple[str, int]) -> None:
    assert load_settings(bind=bind).host_and_port == expected


def test_settings_never_change_once_read() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.web_threads = 99  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    fields = Settings.model_fields.items()
    assert [name for name, field in fields if not field.description] == []


def test_the_page_of_settings_is_up_to_date() -> None:
    listed = [name for names in settings_page.groups().values() for name in names]
    assert listed == list(Settings.model_fields)
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), (
        "write it anew: .venv/bin/python -m scripts.settings_page"
    )


def test_images_and_models_lie_in_the_data_directory_unless_another_place_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings(data_dir=tmp_path / "a b").storage == f"file://{tmp_path}/a%20b/objects"
    monkeypatch.setenv("CLASSIFIER_STORAGE_URL", "s3://bucket/prefix")
    assert load_settings(data_dir=tmp_path).storage == "s3://bucket/prefix"


def test_keys_of_a_bucket_come_by_the_names_of_the_ecosystem_and_stay_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_env(AWS_ACCESS_KEY_ID="key", AWS_SESSION_TOKEN="hunter2", AWS_REGION="eu-west-1")
    (tmp_path / "secret").write_text("hunter2\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))
    settings = load_settings()
    assert (settings.aws_access_key_id, settings.aws_region) == ("key", "eu-west-1")
    assert settings.aws_secret_access_key is not None
    assert settings.aws_secret_access_key.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + settings.model_dump_json()
    assert load_settings(aws_region="eu-central-1").aws_region == "eu-central-1"

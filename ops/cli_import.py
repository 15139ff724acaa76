"""`classify models import`: a weights file, a directory, or nothing but an architecture."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops.cli import as_json, with_settings
from ops.cli_models import open_registry, say_installed

if TYPE_CHECKING:
    from ops.catalogue import Entry
    from shared.settings import Settings

_SIZE = re.compile(r"(\d{1,4})x(\d{1,4})", re.ASCII)


class _InputSize(click.ParamType[tuple[int, int]]):
    name = "HxW"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        found = _SIZE.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not HEIGHTxWIDTH in pixels, as 224x224", param, ctx)
        return int(found[1]), int(found[2])


@click.command("import")
@click.argument("name")
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--application", metavar="NAME", help="Of keras.applications: what FILE belongs to.")
@click.option("--no-top", is_flag=True, help="Without the classifier: embeddings. Needs --pooling.")
@click.option("--pooling", type=click.Choice(["avg", "max"]), help="What makes one embedding.")
@click.option("--classes", type=click.IntRange(min=1), help="How many there are.  [1000]")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A label a line, or class_id<TAB>label.  [ImageNet's, for 1000 classes]",
)
@click.option("--input-size", type=_InputSize(), help="In pixels.  [the application's own]")
@click.option("--classifier-activation", type=click.Choice(["softmax", "sigmoid", "none"]))
@click.option("--random-weights", is_flag=True, help="Without FILE: untrained, to try things out.")
@as_json
@with_settings(role="models")
def import_model(
    settings: "Settings", name: str, file: Path | None, as_json: bool, **options: Any
) -> int:
    """Install a model from a weights file, or one of your own from its directory.

    For a model that can be pulled, FILE is its weights file (.weights.h5, .h5 or .keras). For a
    variant of one, give it a NAME of its own, say --application, and the options as Keras's
    constructor has them. For any other model FILE is a directory with model.keras, labels.txt and
    model.toml.
    """
    random = bool(options.pop("random_weights"))
    if random == (file is not None):
        raise click.UsageError("Give a FILE, or --random-weights.")
    if file is not None and file.is_dir():
        if any(options.values()):
            raise click.UsageError("A directory says everything itself, in its model.toml.")
        return _import_directory(settings, name, file, as_json)
    entry = _entry(name, options, random=random)
    database, storage = open_registry(settings)
    work_dir = settings.data_dir / "downloads"
    if file is None:
        from ops.weights import install_random
        from worker.engines import quick_import

        with quick_import():
            from worker.engines.weights import save_random_weights

        version = install_random(database, storage, entry, work_dir, make=save_random_weights)
        click.echo(
            f"{name} has random weights: it was never trained, and what it answers means nothing.",
            err=True,
        )
    else:
        from ops.proof import load
        from ops.weights import import_weights

        version = import_weights(database, storage, entry, file, work_dir, check=load)
    return say_installed(name, version, as_json)


def _import_directory(settings: "Settings", name: str, directory: Path, as_json: bool) -> int:
    from ops.directory import install_directory
    from ops.proof import load

    database, storage = open_registry(settings)
    version = install_directory(database, storage, name, directory, check=load)
    return say_installed(name, version, as_json)


def _entry(name: str, options: dict[str, Any], *, random: bool) -> "Entry":
    """What is to be installed under this name."""
    from ops.catalogue import APPLICATIONS, DOWNLOADS, build
    from ops.install import NotAModel, check_name

    check_name(name)
    application = options.pop("application")
    if application is None and name not in DOWNLOADS:
        raise NotAModel(
            f"a file alone does not say how to use {name}: say --application NAME, if it is one of "
            "keras.applications, or give a directory with model.keras, labels.txt and model.toml"
        )
    if name in DOWNLOADS:
        if application is not None or random or any(options.values()):
            raise NotAModel(
                f"{name} is Keras's own, and stays that: give a variant a name of its own, and say "
                f"--application {DOWNLOADS[name].application.name}"
            )
        return DOWNLOADS[name]
    if application not in APPLICATIONS:
        raise NotAModel(
            f"there is no application {application}; there are {', '.join(APPLICATIONS)}"
        )
    return build(
        name,
        APPLICATIONS[application],
        include_top=not options["no_top"],
        pooling=options["pooling"],
        classes=options["classes"],
        labels=options["labels"],
        size=options["input_size"],
        activation=options["classifier_activation"],
    )

"""The models that `classify` knows by name, and where their parts come from."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ops.install import Labels, NotAModel, md5_of, sha256_of
from ops.labels import read_labels
from shared.models import ModelSpec

_ROOT = Path(__file__).parent.parent
_IMAGENET = _ROOT / "shared" / "data" / "imagenet_labels.tsv"
_IMAGENET_CLASSES = 1000

POOLINGS = ("avg", "max")


@dataclass(frozen=True)
class Source:
    """Where pretrained weights come from.

    Attributes:
        path: Below the setting `weights_url`.
        md5: As Keras's own source has it; None where it has none.
        cached_as: The file's name in Keras's cache, where it is not the path's last part.
    """

    path: str
    md5: str | None = None
    cached_as: str | None = None

    @property
    def file_name(self) -> str:
        """Of the weights, in Keras's cache and here."""
        return self.cached_as or self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Application:
    """A model of `keras.applications`: a table of `applications.toml`, which says what is what."""

    name: str
    constructor: str
    preprocessing: str
    size: int
    top: Source
    no_top: Source
    imagenet_stem: bool = False


@dataclass(frozen=True)
class Entry:
    """An application as it is built under a name.

    Attributes:
        name: Of the model, as clients write it.
        height, width: Input size in pixels.
        labels: File of its labels; None for an embedding.
        options: Of the constructor, those that are not Keras's defaults.
        source: Of its pretrained weights; None for a variant of one's own.
    """

    name: str
    application: Application
    height: int
    width: int
    labels: Path | None
    options: Mapping[str, Any] = field(default_factory=dict)
    activation: str = "softmax"
    source: Source | None = None

    def read_labels(self) -> Labels:
        """Its labels, in the order of its output."""
        return [] if self.labels is None else read_labels(self.labels)

    def spec(self, weights: Path) -> ModelSpec:
        """What a worker needs to serve it with these weights."""
        return ModelSpec(
            architecture=self.application.constructor,
            weights=weights.name,
            height=self.height,
            width=self.width,
            preprocessing=self.application.preprocessing,
            sha256=sha256_of(weights),
            size_bytes=weights.stat().st_size,
            activation=self.activation,
            output="embedding" if self.labels is None else "scores",
            options=dict(self.options),
            # Keras knows its own weights by their name; a file that is imported, by its content.
            imagenet_stem=self.application.imagenet_stem
            and self.source is not None
            and md5_of(weights) == self.source.md5,
        )


def build(
    name: str,
    application: Application,
    *,
    include_top: bool = True,
    pooling: str | None = None,
    classes: int | None = None,
    labels: Path | None = None,
    size: tuple[int, int] | None = None,
    activation: str | None = None,
) -> Entry:
    """An application with options, named and meant as those of Keras's constructor.

    `size` is the height and width of the input in pixels, by default the application's own;
    `activation` the classifier's: `softmax`, `sigmoid` or `none`.

    Raises:
        NotAModel: The options contradict each other, or what comes out could not be served.
    """
    height, width = size or (application.size, application.size)
    if not include_top:
        if pooling is None:
            raise NotAModel(
                "without its top and without pooling a model gives a grid of numbers for each "
                "image, which is no answer: choose the pooling avg or max"
            )
        if classes is not None or labels is not None or activation is not None:
            raise NotAModel("without its top a model has no classes, labels or activation")
        options = {"include_top": False, "pooling": pooling}
        return Entry(name, application, height, width, None, options, activation="none")
    if pooling is not None:
        raise NotAModel("with its top a model has no pooling of yours: leave one of the two out")
    count = classes or _IMAGENET_CLASSES
    if labels is None and count != _IMAGENET_CLASSES:
        raise NotAModel(f"{count} classes need a file of as many labels: the answers are labels")
    labels = labels or _IMAGENET
    found = len(read_labels(labels))
    if found != count:
        raise NotAModel(f"{labels} has {found} labels, and the model {count} classes")
    options = {} if count == _IMAGENET_CLASSES else {"classes": count}
    if activation not in (None, "softmax"):
        options["classifier_activation"] = None if activation == "none" else activation
    return Entry(name, application, height, width, labels, options, activation or "softmax")


def _read_applications() -> dict[str, Application]:
    tables = tomllib.loads((Path(__file__).parent / "applications.toml").read_text("utf-8"))
    return {
        name: Application(
            name, top=Source(**table.pop("top")), no_top=Source(**table.pop("no_top")), **table
        )
        for name, table in tables.items()
    }


def _downloads() -> dict[str, Entry]:
    entries = {}
    for name, application in APPLICATIONS.items():
        size = application.size
        entries[name] = Entry(name, application, size, size, _IMAGENET, source=application.top)
        for pooling in POOLINGS:
            own = build(f"{name}-{pooling}", application, include_top=False, pooling=pooling)
            entries[own.name] = replace(own, source=application.no_top)
    return entries


APPLICATIONS: dict[str, Application] = _read_applications()

# What `pull` fetches. `vgg16-avg` is vgg16 without its top and with that pooling: embeddings.
DOWNLOADS: dict[str, Entry] = _downloads()

BUNDLED: dict[str, Path] = {"digits": _ROOT / "models" / "digits"}

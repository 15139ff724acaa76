"""The models that `classify` knows how to install, and where their parts come from."""

from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_IMAGENET = _ROOT / "shared" / "data" / "imagenet_labels.tsv"


@dataclass(frozen=True)
class Entry:
    """A `keras.applications` model whose weights are fetched.

    Attributes:
        name: Of the model, as clients write it.
        architecture: Name of the constructor in `keras.applications`.
        preprocessing: `keras.applications` module whose `preprocess_input` is used.
        height, width: Input size in pixels.
        path: Of the weights file, below the setting `weights_url`.
        md5: Of the weights file, as Keras's own source has it.
        labels: File of `class_id<TAB>label` lines, in the order of the model's output.
    """

    name: str
    architecture: str
    preprocessing: str
    height: int
    width: int
    path: str
    md5: str
    labels: Path

    @property
    def file_name(self) -> str:
        """Of the weights, here and in Keras's cache."""
        return self.path.rpartition("/")[2]


DOWNLOADS: dict[str, Entry] = {
    "vgg16": Entry(
        name="vgg16",
        architecture="VGG16",
        preprocessing="vgg16",
        height=224,
        width=224,
        path="vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        md5="64373286793e3c8b2b4e3219cbf3544b",
        labels=_IMAGENET,
    )
}

BUNDLED: dict[str, Path] = {"digits": _ROOT / "models" / "digits"}


def read_labels(path: Path) -> list[tuple[str, str]]:
    """(class_id, label) pairs: a line is `class_id<TAB>label`, or a label that is its own id."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            class_id, tab, label = line.strip().partition("\t")
            pairs.append((class_id, label if tab else class_id))
    return pairs

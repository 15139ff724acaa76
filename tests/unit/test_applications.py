"""The table of applications, held to the source of the installed Keras."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ops.catalogue import APPLICATIONS, DOWNLOADS, Application, Source, build
from ops.install import NotAModel, md5_of, version_of

ROOT = "https://storage.googleapis.com/"

# Keras's own constructors run, but build nothing: every layer and model in their modules is
# replaced. What is left is what they ask for: a file, its sum, and the default size.
ASK_KERAS = """
import importlib, inspect, json, pkgutil, warnings
import keras
from keras.src import applications
from keras.src.applications import imagenet_utils
from keras.src.utils import file_utils

class Nothing:
    shape = (None, 8, 8, 8)
    def __getattr__(self, name): return self
    def __call__(self, *args, **kwargs): return self
    __add__ = __radd__ = __sub__ = __mul__ = __rmul__ = __truediv__ = __call__

asked, sizes = [], []

def get_file(fname, origin, file_hash=None, **options):
    asked.append((fname, origin, file_hash))
    return "nowhere.h5"

def obtain_input_shape(input_shape, default_size, **options):
    sizes.append(default_size)
    return (default_size, default_size, 3)

file_utils.get_file = get_file
imagenet_utils.obtain_input_shape = obtain_input_shape
for found in pkgutil.iter_modules(applications.__path__):
    module = importlib.import_module(f"{applications.__name__}.{found.name}")
    for name, value in list(vars(module).items()):
        if name in ("layers", "ops", "operation_utils") or inspect.isclass(value):
            setattr(module, name, Nothing())
warnings.simplefilter("ignore")
facts = {}
for name, constructor in inspect.getmembers(keras.applications, inspect.isfunction):
    fact = facts[name] = {"preprocessing": constructor.__module__.rpartition(".")[2]}
    for kind in ("top", "no_top"):
        asked.clear(), sizes.clear()
        constructor(weights="imagenet", include_top=kind == "top")
        [fact[kind]] = asked
        fact["size"] = sizes[0] if sizes else None
    assert callable(getattr(keras.applications, fact["preprocessing"]).preprocess_input)
print(json.dumps(facts))
"""


def test_every_application_is_as_keras_has_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK_KERAS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    ours = {}
    for each in APPLICATIONS.values():
        ours[each.constructor] = {
            "preprocessing": each.preprocessing,
            "top": [each.top.file_name, ROOT + each.top.path, each.top.md5],
            "no_top": [each.no_top.file_name, ROOT + each.no_top.path, each.no_top.md5],
            "size": each.size,
        }
    for name, fact in facts.items():
        if fact["size"] is None:  # MobileNetV3 takes any; its weights were trained at this size
            assert f"_{ours[name]['size']}_" in fact["top"][0]
            fact["size"] = ours[name]["size"]
    assert ours == facts
    assert len(ours) >= 40


def test_each_can_be_had_with_its_top_and_as_embeddings() -> None:
    assert len(DOWNLOADS) == 3 * len(APPLICATIONS)
    for application in APPLICATIONS.values():
        whole = DOWNLOADS[application.name]
        assert whole.source == application.top
        assert len(whole.read_labels()) == 1000
        for pooling in ("avg", "max"):
            embedding = DOWNLOADS[f"{application.name}-{pooling}"]
            assert embedding.source == application.no_top
            assert embedding.options == {"include_top": False, "pooling": pooling}
            assert embedding.read_labels() == []
            assert embedding.activation == "none"


SMALL = Application("small", "VGG16", "vgg16", 224, Source("a/top.h5"), Source("a/notop.h5"))


def test_no_options_mean_what_keras_does() -> None:
    entry = build("own", SMALL)
    assert entry.options == {}
    assert (entry.height, entry.width, entry.activation) == (224, 224, "softmax")
    assert entry.source is None


def test_kerass_own_weights_are_known_by_their_sum_where_they_are_used_otherwise(
    tmp_path: Path,
) -> None:
    weights = tmp_path / "weights.h5"
    weights.write_bytes(b"these")
    entry = DOWNLOADS["efficientnet_b0"]
    assert not entry.spec(weights).imagenet_stem  # of one's own training
    theirs = replace(entry, source=Source("a/b.h5", md5_of(weights)))
    assert theirs.spec(weights).imagenet_stem
    other = replace(theirs, application=APPLICATIONS["efficientnet_v2_b0"])
    assert not other.spec(weights).imagenet_stem
    with_step, without = theirs.spec(weights), entry.spec(weights)
    assert version_of(with_step, []) != version_of(without, [])


def test_the_name_in_the_cache_of_keras_may_be_another() -> None:
    assert Source("a/b.h5").file_name == "b.h5"
    assert DOWNLOADS["nasnet_mobile"].source is not None
    assert DOWNLOADS["nasnet_mobile"].source.file_name == "nasnet_mobile.h5"
    assert DOWNLOADS["nasnet_mobile"].source.path.endswith("/NASNet-mobile.h5")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"include_top": False}, "choose the pooling avg or max"),
        ({"include_top": False, "pooling": "avg", "classes": 10}, "no classes, labels or activ"),
        ({"include_top": False, "pooling": "avg", "activation": "softmax"}, "no classes, labels"),
        ({"pooling": "avg"}, "leave one of the two out"),
        ({"classes": 10}, "10 classes need a file of as many labels"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, object], reason: str
) -> None:
    with pytest.raises(NotAModel, match=reason):
        build("own", SMALL, **options)  # type: ignore[arg-type]

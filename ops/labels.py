"""Label files: a line for each number of a model's output, in their order."""

from pathlib import Path

from ops.install import Labels, NotAModel


def read_labels(path: Path) -> Labels:
    """(class_id, label) pairs: a line is `class_id<TAB>label`, or a label that is its own id.

    Raises:
        NotAModel: There are none, one comes twice, or one cannot be shown.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NotAModel(f"{path} cannot be read: {error}") from error
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        class_id, tab, label = line.strip().partition("\t")
        if not class_id:
            continue
        if not (class_id + label).isprintable():
            raise NotAModel(f"{path}, line {number}: control characters are not taken")
        if class_id in pairs:
            raise NotAModel(f"{path}, line {number}: {class_id!r} is there already")
        pairs[class_id] = label if tab else class_id
    if not pairs:
        raise NotAModel(f"{path} has no labels")
    return list(pairs.items())

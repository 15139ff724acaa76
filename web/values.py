"""Values that a client gave, held to their schema: each wrong one is told by its name."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from shared.errors import ProblemError

Shape = TypeVar("Shape", bound=BaseModel)


def invalid(field: str, detail: str) -> ProblemError:
    """The refusal of one value."""
    return ProblemError(
        "invalid_value", f"{field}: {detail}", errors=[{"field": field, "detail": detail}]
    )


def parse(shape: type[Shape], values: dict[str, Any], *, strict: bool) -> Shape:
    """Check the values of a request.

    Args:
        shape: What they have to be.
        values: As they came.
        strict: Take values of JSON types only; else texts, as forms and addresses have them.

    Raises:
        ProblemError: `invalid_value`, with one entry of `errors` for each wrong value.
    """
    try:
        return shape.model_validate(values, strict=strict)
    except ValidationError as error:
        errors = [
            {
                "field": ".".join(str(part) for part in found["loc"][:1]),
                "detail": "there is no such option"
                if found["type"] == "extra_forbidden"
                else found["msg"].removeprefix("Value error, "),
            }
            for found in error.errors(include_url=False, include_input=False)
        ]
        detail = "; ".join(f"{e['field']}: {e['detail']}" for e in errors)
        raise ProblemError("invalid_value", detail, errors=errors) from error


def parse_texts(shape: type[Shape], given: MultiDict[str, str]) -> Shape:
    """Options of a form or an address; an empty field, as forms send it, is one left out.

    Raises:
        ProblemError: As `parse`.
    """
    values: dict[str, Any] = {}
    for name, texts in given.lists():
        if len(texts) > 1:
            raise invalid(name, "given more than once")
        if texts[0] != "":
            values[name] = texts[0]
    if "metadata" in values:
        try:
            values["metadata"] = json.loads(values["metadata"])
        except (ValueError, RecursionError) as error:
            raise invalid("metadata", "this is not JSON") from error
    return parse(shape, values, strict=False)

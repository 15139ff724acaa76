"""What is asked of a list of jobs, and the cursors that lead from one page to the next."""

import base64
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from werkzeug.datastructures import MultiDict

from web.schemas import IngestionStatus, Status, Text
from web.values import Shape, invalid, parse

_NONE = "this is not a cursor that was handed out"
_CURSOR_SCHEMA = {"type": "string"}


def write_cursor(place: UUID) -> str:
    """The place as clients see it: it says nothing to them, and stands for every filter."""
    return base64.urlsafe_b64encode(place.bytes).rstrip(b"=").decode()


def read_cursor(cursor: str) -> UUID:
    """The place of a cursor that was handed out.

    Raises:
        ValueError: It is none.
    """
    try:
        place = UUID(bytes=base64.b64decode(f"{cursor}==", altchars=b"-_", validate=True))
    except ValueError as error:
        raise ValueError(_NONE) from error
    if write_cursor(place) != cursor:
        raise ValueError(_NONE)
    return place


class Pages(BaseModel):
    """Where in a list a page begins, and how long it is."""

    model_config = ConfigDict(extra="forbid")

    cursor: Annotated[UUID, BeforeValidator(read_cursor), WithJsonSchema(_CURSOR_SCHEMA)] | None = (
        Field(None, description="The `next_cursor` of the page before; the filters may be changed.")
    )
    limit: int = Field(50, ge=1, le=100, description="How many to list at most.")


class IngestionFilters(Pages):
    """Which of one's ingestions are listed."""

    status: list[IngestionStatus] = Field([], description="One or more. Without it, every state.")


class Filters(Pages):
    """Which of one's jobs are listed."""

    status: list[Status] = Field([], description="One or more. Without it, every state.")
    model: Text | None = Field(
        None, description="`name`, for every version of it, or `name@version`."
    )
    label: Text | None = Field(None, description="The best label that was answered, exactly.")
    reference: Text | None = Field(None, description="The caller's own id, exactly.")
    ingestion: UUID | None = Field(None, description="The ingestion that the jobs belong to.")


def read_filters(shape: type[Shape], given: MultiDict[str, str]) -> Shape:
    """The filters in an address; an empty one, as forms send it, is one left out.

    Raises:
        ProblemError: `invalid_value`.
    """
    values: dict[str, Any] = {}
    for name, all_texts in given.lists():
        texts = [text for text in all_texts if text]
        if name == "status":
            values[name] = texts
        elif len(texts) > 1:
            raise invalid(name, "given more than once")
        elif texts:
            values[name] = texts[0]
        elif name not in shape.model_fields:
            values[name] = ""
    return parse(shape, values, strict=False)

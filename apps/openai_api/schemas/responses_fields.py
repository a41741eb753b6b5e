"""The fields `reasoning` and `text` of the Responses API, which chat completions read too. Knows nothing of models."""

from typing import Literal

from msgspec import Struct

from apps.core.errors import InvalidRequest, UnsupportedParameter
from apps.openai_api.schemas.structure import ResponseFormat, read_response_format
from gpu_worker.protocol import Structure

# Which of them a model has, its worker knows.
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ReasoningFields(Struct, frozen=True, forbid_unknown_fields=True):
    """How much a model thinks. There is nobody who summarises it: it is in the answer as it is."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None

    def check(self) -> None:
        """Raises UnsupportedParameter for a summary that would have to be written."""
        for name in ("summary", "generate_summary"):
            if getattr(self, name) not in (None, "auto"):
                message = f"'reasoning.{name}' can be \"auto\" here: reasoning is given in full and not summarised."
                raise UnsupportedParameter(message, param=f"reasoning.{name}")


class TextFields(Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the answer."""

    format: ResponseFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    def to_structure(self) -> Structure | None:
        """The form that is asked for. Raises InvalidRequest or UnsupportedParameter."""
        if self.verbosity not in (None, "medium"):
            message = "'text.verbosity' can be \"medium\" here: no model has another."
            raise UnsupportedParameter(message, param="text.verbosity")
        given = self.format
        if given is None:
            return None
        if given.type == "json_schema" and given.json_schema is None and bytes(given.schema) == b"null":
            raise InvalidRequest("'text.format.schema' is required.", param="text.format.schema")
        return read_response_format(given, "text.format")

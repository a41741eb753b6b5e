"""The input of a batch: a file of JSON lines, read one at a time and checked before anything is asked of a model.

https://platform.openai.com/docs/api-reference/batch/request-input. What stands in `body` is not looked into here, but
for the model's name: each line is answered, or refused, as the endpoint itself would. Blocking.
"""

from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import msgspec
from django.conf import settings

MAX_PROBLEMS = 50  # that are told: a file that is wrong is wrong throughout
MAX_ID_LENGTH = 512
MAX_MODEL_LENGTH = 200


class InputLine(NamedTuple):
    """One valid request. `body` is its JSON text."""

    number: int  # of the line in the file, from 1
    custom_id: str
    body: bytes


class Problem(msgspec.Struct, frozen=True):
    """Something wrong with the input, in OpenAI's fields."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Report(NamedTuple):
    """What an input is like. `model`: the one that all lines name, empty where they differ."""

    num_lines: int
    model: str
    problems: list[Problem]


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Model(msgspec.Struct, frozen=True):
    model: Any = None


_decoder = msgspec.json.Decoder(_Line)
_model_decoder = msgspec.json.Decoder(_Model)


def read_lines(file: IO[bytes]) -> Iterator[InputLine]:
    """The requests of an input that was checked, in order."""
    for number, text in _iterate(file):
        line = _decoder.decode(text)
        yield InputLine(number, line.custom_id, bytes(line.body))


def check_input(file: IO[bytes], endpoint: str) -> Report:
    """Look at every line."""
    checker = _Checker(endpoint)
    for number, text in _iterate(file):
        checker.check(number, text)
        if checker.is_enough:
            break
    return checker.report()


def _iterate(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank. One that is longer than a request may be comes cut."""
    number = 0
    while text := file.readline(settings.MAX_BODY_BYTES + 1):
        number += 1
        if len(text) > settings.MAX_BODY_BYTES:
            while not text.endswith(b"\n") and (rest := file.readline(1 << 20)):
                text = text[:-1] + rest[-1:]
        if number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        if text.strip():
            yield number, text


class _Checker:
    """Goes over the lines of one input."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._num_lines = 0
        self._ids: set[str] = set()
        self._models: set[str] = set()
        self._problems: list[Problem] = []

    @property
    def is_enough(self) -> bool:
        return self._num_lines > settings.MAX_BATCH_LINES or len(self._problems) >= MAX_PROBLEMS

    def check(self, number: int, text: bytes) -> None:
        self._num_lines += 1
        if self._num_lines <= settings.MAX_BATCH_LINES:
            self._problems += self._find_problems(number, text)

    def report(self) -> Report:
        problems = self._problems
        if self._num_lines > settings.MAX_BATCH_LINES:
            message = f"The file has more than {settings.MAX_BATCH_LINES} lines."
            problems = [Problem("too_many_lines", message, "input_file_id"), *problems]
        if not self._num_lines:
            problems = [Problem("empty_file", "The file has no lines.", "input_file_id")]
        model = self._models.pop() if len(self._models) == 1 else ""
        return Report(self._num_lines, model, problems)

    def _find_problems(self, number: int, text: bytes) -> Iterator[Problem]:
        if len(text) > settings.MAX_BODY_BYTES:
            message = f"This line is longer than {settings.MAX_BODY_BYTES} bytes."
            yield Problem("line_too_long", message, None, number)
            return
        try:
            line = _decoder.decode(text)
        except msgspec.ValidationError as error:
            yield Problem("invalid_request", f"This line cannot be read: {error}.", None, number)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield Problem("invalid_json_line", "This line is not valid JSON.", None, number)
        else:
            yield from self._check_fields(number, line)

    def _check_fields(self, number: int, line: _Line) -> Iterator[Problem]:
        if line.method != "POST":
            yield Problem("invalid_method", "'method' must be POST.", "method", number)
        if line.url != self._endpoint:
            message = f"'url' must be the batch's endpoint, {self._endpoint}."
            yield Problem("mismatched_endpoint", message, "url", number)
        if not 1 <= len(line.custom_id) <= MAX_ID_LENGTH:
            message = f"'custom_id' must have 1 to {MAX_ID_LENGTH} characters."
            yield Problem("invalid_custom_id", message, "custom_id", number)
        elif line.custom_id in self._ids:
            message = f"The custom_id '{line.custom_id}' is that of an earlier line."
            yield Problem("duplicate_custom_id", message, "custom_id", number)
        self._ids.add(line.custom_id)
        try:
            model = _model_decoder.decode(line.body).model
        except msgspec.DecodeError:
            yield Problem("invalid_request", "'body' must be an object.", "body", number)
        else:
            is_name = isinstance(model, str) and len(model) <= MAX_MODEL_LENGTH and "\x00" not in model
            self._models.add(model if is_name else "")

"""A multipart/form-data body, read as it arrives: nothing waits for the whole of it.

Files are kept in memory, unless a reader that is handed in puts them elsewhere. Knows HTTP and python-multipart;
nothing of what the fields mean. https://datatracker.ietf.org/doc/html/rfc7578
"""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from apps.core.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from apps.core.middleware import Receive, Scope, get_header

MAX_FIELDS = 64
MAX_FIELD_BYTES = 64 * 1024  # of a field that is no file


@dataclass
class Form:
    """What was sent: the values of each field in order, and the files."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


async def read_form(scope: Scope, receive: Receive, limit: int, reader: "FormReader | None" = None) -> Form:
    """Raises UnsupportedMediaType, InvalidRequest, and PayloadTooLarge before it has read more than `limit`."""
    reader = reader or FormReader(scope)
    declared = get_header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _make_too_large(limit)
    size = 0
    while True:
        message = await receive()  # after a disconnect: nothing more, and nobody reads what is answered
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _make_too_large(limit)
        await reader.take(body)
        if not message.get("more_body"):
            return reader.finish()


class FormReader:
    """Collects the parser's callbacks. A subclass may put files elsewhere than into memory."""

    def __init__(self, scope: Scope) -> None:
        """Raises UnsupportedMediaType and InvalidRequest."""
        boundary = _find_boundary(get_header(scope, b"content-type"))
        self._form = Form()
        self._num_parts = 0
        self._is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._name = ""
        self._is_file = False
        self._data = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def take(self, data: bytes) -> None:
        """The next piece of the body. Raises ServiceError."""
        self.write(data)

    def begin_file(self, name: str, filename: str) -> None:
        """A part that is a file. Raises ServiceError."""

    def add_to_file(self, data: bytes) -> None:
        """The next piece of it. Raises ServiceError."""
        self._data += data

    def end_file(self) -> bytes:
        """What the form is to hold of it."""
        return bytes(self._data)

    def write(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest("The body is not valid multipart/form-data.") from error

    def finish(self) -> Form:
        """Raises InvalidRequest when the end is missing."""
        if not self._is_complete:
            raise InvalidRequest("The body is cut off: its last boundary is missing.")
        return self._form

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_FIELDS:
            raise InvalidRequest(f"A form may have {MAX_FIELDS} fields at most.")
        self._headers, self._data = {}, bytearray()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise InvalidRequest("A part of the form has no name.")
        self._name = options[b"name"].decode(errors="replace")
        self._is_file = b"filename" in options
        if self._is_file:
            self.begin_file(self._name, options[b"filename"].decode(errors="replace"))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            return self.add_to_file(data[start:end])
        self._data += data[start:end]
        if len(self._data) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"'{self._name}' is longer than {MAX_FIELD_BYTES} bytes.", param=self._name)

    def _end_part(self) -> None:
        if self._is_file:
            if self._name in self._form.files:
                raise InvalidRequest(f"'{self._name}' was sent twice.", param=self._name)
            self._form.files[self._name] = self.end_file()
            return
        try:
            text = self._data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"'{self._name}' is not UTF-8 text.", param=self._name) from None
        self._form.fields.setdefault(self._name, []).append(text)

    def _end(self) -> None:
        self._is_complete = True


def _find_boundary(content_type: bytes | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        given = kind.decode("latin-1") or "without a content type"
        raise UnsupportedMediaType(f"Send the body as multipart/form-data, not {given}.")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046
        raise InvalidRequest("The content type names no boundary.")
    return boundary


def _make_too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", param="file")

"""The answer of an OpenAI-compatible embeddings endpoint as our vectors. Pure."""

from array import array
from base64 import b64decode
from sys import byteorder

import msgspec

from apps.inference.clients.openai_http.events import UsageObject
from gpu_worker.protocol import Embed, Finished, Usage, Vectors


class _Item(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int


class _List(msgspec.Struct, frozen=True):
    data: list[_Item]
    usage: UsageObject | None = None


_decoder = msgspec.json.Decoder(_List)


def read_vectors(message: Embed, body: bytes) -> tuple[Vectors, Finished]:
    """All of them in one event, and the end. Raises msgspec.MsgspecError or ValueError for what is no such answer."""
    answer = _decoder.decode(body)
    rows = [_read_row(item.embedding) for item in answer.data]
    indices = [item.index for item in answer.data]
    widths = {len(row) // 4 for row in rows}
    if sorted(indices) != list(range(len(message.inputs))) or len(widths) != 1:
        raise ValueError("it has not one vector of the same length for each input")
    usage = answer.usage.read() if answer.usage is not None else Usage()
    vectors = Vectors(message.id, indices, widths.pop(), b"".join(rows))
    return vectors, Finished(message.id, "stop", usage=msgspec.structs.replace(usage, completion_tokens=0))


def _read_row(embedding: list[float] | str) -> bytes:
    """Little-endian float32."""
    if isinstance(embedding, str):
        return b64decode(embedding, validate=True)
    numbers = array("f", embedding)
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()

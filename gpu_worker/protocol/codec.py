"""Frames: a version byte followed by msgpack. Both directions check version and size before decoding."""

from collections.abc import Sequence

import msgspec

from gpu_worker.protocol.events import FromWorker
from gpu_worker.protocol.requests import ToWorker

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 64 * 1024 * 1024

_VERSION_BYTE = bytes([PROTOCOL_VERSION])
_MAX_HEAD_BYTES = 8  # version, and the length of the list
_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(list[ToWorker])
_from_worker = msgspec.msgpack.Decoder(list[FromWorker])


class ProtocolError(ValueError):
    """A frame that this version cannot read: wrong version byte, too large, or not the declared shape."""


def encode_message(message: ToWorker) -> bytes:
    """One message, ready to be put into a frame. Raises ProtocolError when no frame could hold it."""
    encoded = _encoder.encode(message)
    if len(encoded) > MAX_FRAME_BYTES - _MAX_HEAD_BYTES:
        raise ProtocolError(f"a message of {len(encoded)} bytes exceeds the limit of {MAX_FRAME_BYTES}")
    return encoded


def join_to_worker(encoded: Sequence[bytes]) -> bytes:
    """One frame for the worker, of messages that `encode_message` has made. Raises ProtocolError above
    MAX_FRAME_BYTES; a single message always fits."""
    return _frame(_encoder.encode([msgspec.Raw(message) for message in encoded]))


def encode_to_worker(*messages: ToWorker) -> bytes:
    """One frame for the worker. Raises ProtocolError above MAX_FRAME_BYTES."""
    return join_to_worker([encode_message(message) for message in messages])


def encode_from_worker(events: Sequence[FromWorker]) -> bytes:
    """One frame for the web process. Raises ProtocolError above MAX_FRAME_BYTES."""
    return _frame(_encoder.encode(events))


def decode_to_worker(frame: bytes) -> list[ToWorker]:
    """Read a frame sent by a web process: its messages, in order. Raises ProtocolError."""
    try:
        return _to_worker.decode(_payload(frame))
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def decode_from_worker(frame: bytes) -> list[FromWorker]:
    """Read a frame sent by a worker. Raises ProtocolError."""
    try:
        return _from_worker.decode(_payload(frame))
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def _frame(payload: bytes) -> bytes:
    if len(payload) >= MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(payload)} bytes exceeds the limit of {MAX_FRAME_BYTES}")
    return _VERSION_BYTE + payload


def _payload(frame: bytes) -> memoryview:
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(frame)} bytes exceeds the limit of {MAX_FRAME_BYTES}")
    if not frame or frame[0] != PROTOCOL_VERSION:
        raise ProtocolError(f"unknown protocol version {frame[0] if frame else 'none'}, expected {PROTOCOL_VERSION}")
    return memoryview(frame)[1:]

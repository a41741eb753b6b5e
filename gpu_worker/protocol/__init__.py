"""The messages between the web processes and the GPU workers: the only code both halves share.

One WebSocket per (web process, replica), dialled by the web process. Every frame is binary: one
version byte, then one msgpack value. Web to worker a frame is a list of `ToWorker` messages, all
that came up in one turn of the event loop; worker to web a frame is a list of `FromWorker` events,
all that one engine step produced.
This package imports neither Django nor torch, and knows nothing of either half.
"""

from gpu_worker.protocol.codec import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    ProtocolError,
    decode_from_worker,
    decode_to_worker,
    encode_from_worker,
    encode_message,
    encode_to_worker,
    join_to_worker,
)
from gpu_worker.protocol.config import WorkerConfig, read_worker_config, write_worker_config
from gpu_worker.protocol.events import (
    Delta,
    Failed,
    FailureCode,
    Finished,
    FinishReason,
    FromWorker,
    Loading,
    ModelInfo,
    Pong,
    Progress,
    Ready,
    Started,
    Timing,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from gpu_worker.protocol.requests import Abort, Generate, Ping, RequestKind, ResumeChoice, Sampling, ToWorker

__all__ = [
    "MAX_FRAME_BYTES",
    "PROTOCOL_VERSION",
    "Abort",
    "Delta",
    "Failed",
    "FailureCode",
    "FinishReason",
    "Finished",
    "FromWorker",
    "Generate",
    "Loading",
    "ModelInfo",
    "Ping",
    "Pong",
    "Progress",
    "ProtocolError",
    "Ready",
    "RequestKind",
    "ResumeChoice",
    "Sampling",
    "Started",
    "Timing",
    "ToWorker",
    "TokenLogprob",
    "ToolCallDelta",
    "TopLogprob",
    "Usage",
    "WorkerConfig",
    "decode_from_worker",
    "decode_to_worker",
    "encode_from_worker",
    "encode_message",
    "encode_to_worker",
    "join_to_worker",
    "read_worker_config",
    "write_worker_config",
]

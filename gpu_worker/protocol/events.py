"""What a worker tells the web process: the one stream of deltas that every endpoint encodes."""

from typing import Literal

import msgspec

from gpu_worker.protocol.transcription import TranscriptPiece

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]
FailureCode = Literal[
    "invalid_request",  # the request can never succeed; `param` names the field
    "context_length_exceeded",
    "unsupported",  # this model or engine cannot honour `param`
    "overloaded",  # the waiting queue is full: try another replica or later
    "not_ready",  # still loading, draining or stopping
    "internal",  # a fault of the worker's own; safe to resume elsewhere
]


Task = Literal["generate", "embed", "score", "transcribe"]  # what a loaded model is for


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One alternative at a position. `token` may be a partial character; `bytes` is exact."""

    token_id: int
    token: str
    logprob: float
    bytes: bytes


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The chosen token at a position, with its alternatives, best first. Of a prompt's first token, which nothing
    comes before, `logprob` is not a number."""

    token_id: int
    token: str
    logprob: float
    bytes: bytes
    top: list[TopLogprob]


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of one tool call: `id` and `name` come with its first piece, `arguments` grow by appending."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Token counts of a whole request (all its choices; the prompt counts once)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # part of prompt_tokens
    reasoning_tokens: int = 0  # part of completion_tokens


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seconds a request spent, measured by the worker. `device_s` is its share of the steps it was in."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    device_s: float = 0.0


class Started(msgspec.Struct, frozen=True, omit_defaults=True, tag="started"):
    """The request is valid and queued: from here on only valid data exists. Always the first event of a request."""

    id: str
    prompt_tokens: int


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag="progress"):
    """The request still waits: `queue_position` others are ahead of it."""

    id: str
    queue_position: int


class Delta(msgspec.Struct, frozen=True, omit_defaults=True, tag="delta"):
    """New output of one choice. `token_ids` are all tokens sampled since the last delta, whether or not
    they have become text yet (a split character, a possible stop string, a tool call being parsed):
    the sum of their lengths is exactly the completion token count, and what a resume must send."""

    id: str
    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] | None = None
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    transcript: TranscriptPiece | None = None  # ends every window of a `Transcribe`
    is_prompt: bool = False  # an echo: text or log-probabilities of the prompt itself


class Vectors(msgspec.Struct, frozen=True, omit_defaults=True, tag="vectors"):
    """Results of some inputs of an `Embed` (their vectors) or a `Score` (one number each), in the order computed."""

    id: str
    indices: list[int]  # which inputs
    width: int  # numbers for each
    data: bytes  # little-endian float32, input after input


class Finished(msgspec.Struct, frozen=True, omit_defaults=True, tag="finished"):
    """One choice has ended. `last` is true on the final one of the request, which carries usage and timing."""

    id: str
    reason: FinishReason
    index: int = 0
    last: bool = True
    stop: str | int | None = None  # the stop string or stop token id that ended it, if one did
    usage: Usage = Usage()
    timing: Timing = Timing()


class Tokenized(msgspec.Struct, frozen=True, omit_defaults=True, tag="tokenized"):
    """The one event of a `Tokenize`."""

    id: str
    num_tokens: int
    max_model_len: int  # tokens, prompt and answer together
    token_ids: list[int] = []
    strings: list[str] | None = None  # the vocabulary's own spelling of each


class Detokenized(msgspec.Struct, frozen=True, tag="detokenized"):
    """The one event of a `Detokenize`."""

    id: str
    text: str


class Failed(msgspec.Struct, frozen=True, omit_defaults=True, tag="failed"):
    """The whole request has ended with an error; no event of it follows. `message` may be shown to the client."""

    id: str
    code: FailureCode
    message: str
    param: str | None = None
    usage: Usage = Usage()
    timing: Timing = Timing()


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a loaded model can do, said once by the worker that holds it."""

    architecture: str
    engine: Literal["paged", "fallback", "pooling", "transcription", "http"]  # http: not a worker of ours
    dtype: str
    device: str
    max_model_len: int  # tokens, prompt and answer together
    vocab_size: int
    num_blocks: int = 0
    block_size: int = 0
    has_chat_template: bool = False
    supports_tools: bool = False
    supports_reasoning: bool = False
    eos_token_ids: list[int] = []
    # sampling defaults of the model's own generation_config.json, those of `Sampling`'s fields it names
    generation_defaults: dict[str, float | int] = {}
    engine_reason: str = ""  # why the fallback engine was chosen
    revision: str = ""
    task: Task = "generate"
    dimensions: int = 0  # of an embedding
    prompts: list[str] = []  # names that `Embed.prompt_name` may have
    supports_images: bool = False
    quantization: str = ""  # what the weights in memory are; empty: plain
    compile_obstacle: str = ""  # why steps of a paged model are not compiled, where that was asked for
    supports_audio: bool = False  # recordings in messages


class Loading(msgspec.Struct, frozen=True, omit_defaults=True, tag="loading"):
    """The model is being loaded. `progress` runs from 0 to 1. Sent on connect and as it changes."""

    progress: float
    stage: str = ""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is loaded. Sent once per connection, before any request may be submitted on it."""

    info: ModelInfo


class Pong(msgspec.Struct, frozen=True, omit_defaults=True, tag="pong"):
    """Answer to a `Ping`, with the worker's load at that moment."""

    nonce: int
    num_running: int = 0
    num_waiting: int = 0
    free_blocks: int = 0
    num_blocks: int = 0
    num_steps: int = 0  # forward passes since start: a hung engine's stands still while it has work
    cached_prefixes: bytes = b""  # digest for prefix-aware routing; empty where not offered


FromWorker = Started | Progress | Delta | Vectors | Tokenized | Detokenized | Finished | Failed | Loading | Ready | Pong

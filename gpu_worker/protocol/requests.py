"""What a web process asks of a worker."""

from typing import Any, Literal

import msgspec

from gpu_worker.protocol.transcription import AudioChunk, Transcribe

RequestKind = Literal["chat", "completion"]
StructureKind = Literal["json_object", "json_schema", "regex", "choice", "grammar"]
InputKind = Literal["query", "document"]
ReasoningSetting = Literal["auto", "on", "off"]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is chosen. Defaults are the neutral values: plain sampling at temperature 1.

    The web process resolves every default (request, then model, then these) before it sends, so that
    a request resumed on another replica is sampled in the same way.
    """

    seed: int  # 0 <= seed < 2**63; the web process draws one where the client gave none
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None  # token id -> added to its logit
    max_tokens: int | None = None  # None: as many as the context holds
    min_tokens: int = 0  # end-of-sequence and stop tokens are masked before this many
    stop: tuple[str, ...] = ()  # the stop text itself is not part of the answer
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None  # None: no logprobs; 0: of the chosen token only; n: and of the n best


class Structure(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form that every answer must have: no token is sampled that would leave it."""

    kind: StructureKind
    value: str = ""  # the schema as JSON text, the regular expression, the choices as a JSON list, the grammar
    param: str = "response_format"  # the field of the request that asks for it: failures name it


class ResumeChoice(msgspec.Struct, frozen=True):
    """Tokens of one choice that the client has already been sent by a replica that died."""

    index: int
    token_ids: list[int]


class AdapterRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A LoRA adapter for the worker's model, which loads it when it is first asked for."""

    name: str  # what clients call it: failures name it
    source: str  # a folder on the worker's machine, or a hub id
    revision: str = ""


class Generate(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """Start one request. Its events come back under the same `id`.

    kind "chat" uses `messages` (OpenAI shape, content a string or a list of parts), `tools` and
    `chat_template_kwargs`; kind "completion" uses `prompt`, a text or token ids. `n` choices share
    the prompt; choice i draws its random numbers from (sampling.seed, i, position).
    A part `{"type": "image", "media": key}` is a picture whose file is in `media`; of type "audio" it is a recording.
    """

    id: str
    kind: RequestKind
    sampling: Sampling
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool = False
    echo: bool = False  # completion: the prompt's own text comes first
    n: int = 1
    user: str = ""  # fair-share identity: requests of one user share that user's part of the batch
    weight: float = 1.0
    priority: int = 0  # 0 interactive, higher is later (batch = 10)
    cache_salt: str = ""  # prefixes are shared only between requests of equal salt
    resume: list[ResumeChoice] | None = None
    media: dict[str, bytes] | None = None  # files that messages refer to, each by the SHA-256 of its bytes
    structure: Structure | None = None
    # chat: the client's word on thinking, which is honoured or refused, and the model's setting, followed if it can be
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    reasoning: ReasoningSetting = "auto"
    adapter: AdapterRef | None = None
    suffix: str = ""  # completion: the text after the answer, for models that were taught to fill gaps
    neutral_effort: str = "medium"  # the `reasoning_effort` that asks nothing of a model without levels
    thinking_budget: int | None = None  # tokens that reasoning may take before its end is all that may follow
    set_fields: tuple[str, ...] = ()  # of `sampling`: those that somebody named. For engines with defaults of their own


class Embed(msgspec.Struct, frozen=True, omit_defaults=True, tag="embed"):
    """Turn each input into a vector.

    Texts get the repository's prompt and special tokens, token ids are taken as they are.
    """

    id: str
    inputs: list[str | list[int]]
    dimensions: int | None = None  # the first so many; None: all that the model has
    normalize: bool | None = None  # to unit length; None: as the repository says
    prompt_name: str | None = None  # one of `ModelInfo.prompts`
    input_kind: InputKind | None = None  # the prompt that the repository has for such texts, if it has one
    max_tokens: int | None = None  # cut longer inputs, -1 to the model's length; None: they are refused
    user: str = ""
    weight: float = 1.0
    priority: int = 0


class Score(msgspec.Struct, frozen=True, omit_defaults=True, tag="score"):
    """How well each document answers its query: one query for all of them, or one for each."""

    id: str
    queries: list[str]
    documents: list[str]
    max_tokens: int | None = None  # as in `Embed`, of a query and its document together
    query_param: str = "query"  # what the client calls them, for the failure that names one
    document_param: str = "documents"
    user: str = ""
    weight: float = 1.0
    priority: int = 0


class Tokenize(msgspec.Struct, frozen=True, omit_defaults=True, tag="tokenize"):
    """Which tokens the prompt of `request` comes to. Nothing is computed of them; answered by one `Tokenized`."""

    id: str
    request: Generate
    add_special_tokens: bool = True  # to a text; messages get those that the chat template writes
    add_generation_prompt: bool = True  # to messages: what opens the answer
    with_tokens: bool = True
    with_strings: bool = False


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """Which text these tokens are, special tokens included. Answered by one `Detokenized`."""

    id: str
    token_ids: list[int]


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Stop a request and free its blocks. Answered by `Finished(reason="abort")` unless it had ended already."""

    id: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Sent every second; a worker that answers no `Pong` for five is taken for dead."""

    nonce: int


Submission = Generate | Embed | Score | Transcribe | Tokenize | Detokenize  # what starts a request
ToWorker = Submission | AudioChunk | Abort | Ping

"""How a worker is told what to load and where to listen: the JSON file its launcher writes (mode 0600)."""

from pathlib import Path
from typing import Literal

import msgspec

# The formats that the worker knows (gpu_worker/frontend/parsers), the model's own response template, and no format.
ToolCallFormat = Literal[
    "harmony",
    "minimax",
    "qwen_xml",
    "glm",
    "deepseek",
    "kimi",
    "mistral",
    "functiongemma",
    "gemma",
    "lfm",
    "granite",
    "hermes",
    "pythonic",
    "llama",
    "response_template",
    "none",
]
ReasoningFormat = Literal["harmony", "gemma", "mistral", "granite", "think", "response_template", "none"]
# How weights are made smaller at load: `gpu_worker/quantization.py`.
Quantization = Literal["int8", "int4", "bnb-8bit", "bnb-4bit"]


class WorkerConfig(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Everything a worker needs. `python -m gpu_worker --config FILE` reads it; the flags of
    `python -m gpu_worker --help` build the same thing for use by hand."""

    model: str  # hub id or local folder
    revision: str | None = None
    # Listening. A launcher passes a bound, listening socket as `fd`, so that the port is known before the start.
    host: str = "127.0.0.1"
    port: int = 0
    fd: int | None = None
    token: str = ""  # bearer token every connection must show; empty only for use by hand on loopback
    tls_cert: str | None = None
    tls_key: str | None = None
    # Loading
    dtype: str = "auto"  # auto (the checkpoint's), bfloat16, float16, float32
    device: str = "auto"  # auto, cpu, cuda, cuda:N, mps
    attn_implementation: str | None = None
    quantization: Quantization | None = None
    chat_template: str | None = None  # overrides the repository's own
    engine: Literal["auto", "paged", "fallback"] = "auto"
    local_files_only: bool = False
    # Engine
    max_model_len: int | None = None  # None: what the model's configuration says
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 1024
    max_waiting: int = 1024  # requests queued beyond this are refused as overloaded
    block_size: int = 16
    num_blocks: int | None = None  # None: sized from free memory
    kv_cache_bytes: int | None = None
    prefix_cache: bool = True
    max_loras: int = 8  # adapters kept loaded; those in use stay beyond it
    # Compiled steps on CPUs. auto: where possible, made in the background while the engine serves without;
    # on: ready only when they are, and an error where they are not possible.
    compile: Literal["auto", "on", "off"] = "auto"
    compile_cache: str | None = None  # folder for what was compiled; None: atrium/compiled in the user's cache folder
    # Guessing the next tokens from earlier ones, which changes no token. auto: while one or two requests decode, for
    # those whose guesses are right often enough; ngram: always
    speculation: Literal["auto", "ngram", "off"] = "auto"
    num_speculative_tokens: int = 7  # guesses for a request in a step, at most
    # The same bits for a token alone and in any batch: slower, and an error where it cannot be kept
    batch_invariant: bool = False
    # Process
    num_threads: int | None = None  # None: torch's own choice
    # How a thread waits for the others within a step: brief spins for about 0.1 ms, then sleeps; passive sleeps at
    # once; active spins on. None: as the environment says
    omp_wait_policy: Literal["brief", "passive", "active"] | None = None
    log_level: str = "info"
    drain_grace_s: float = 30.0  # after SIGTERM, running requests may take this long to finish
    # Reading answers. None: as the chat template or the tokenizer says
    tool_call_parser: ToolCallFormat | None = None
    reasoning_parser: ReasoningFormat | None = None
    # SHA-256 of the repository's code (`read_code`) that may run; None: no code of a repository runs
    approved_code: str | None = None

    @property
    def runs_own_code(self) -> bool:
        """Whether the repository's code may run: only from where `gpu_worker.remote_code` has checked it."""
        return self.approved_code is not None


# Settings that the paged engine alone can honour, and the values that insist on it.
_NEEDS_PAGED = {"compile": "on", "speculation": "ngram", "batch_invariant": True}


def find_paged_demand(config: WorkerConfig) -> str | None:
    """What is asked for that only a model that generates, on the paged engine, can do: "compile is set to on"."""
    for name, value in _NEEDS_PAGED.items():
        if getattr(config, name) == value:
            return f"{name} is set to {'on' if value is True else value}"
    return None


def read_worker_config(path: Path) -> WorkerConfig:
    """Raises msgspec.ValidationError naming the field, OSError when the file cannot be read."""
    return msgspec.json.decode(path.read_bytes(), type=WorkerConfig)


def write_worker_config(config: WorkerConfig, path: Path) -> None:
    """Write for the owner alone: it holds the token."""
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.encode(config))

"""How vLLM, SGLang and TGI are started: a command made of a model's settings and the version found. Pure.

A setting that an engine, or that version of it, does not have is an EngineSettingError that names the field.
Sources: https://docs.vllm.ai/en/latest/cli/serve, https://docs.sglang.ai/advanced_features/server_arguments.html,
https://huggingface.co/docs/text-generation-inference/reference/launcher
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from gpu_worker.protocol import split_source

Version = tuple[int, ...]

# Older ones have other names for flags and for fields of requests, and would leave some of ours out without a word.
OLDEST: dict[str, Version] = {"vllm": (0, 11), "sglang": (0, 5), "tgi": (3, 0)}
GIB = 1024**3

# Our names of formats (gpu_worker/protocol/config.py) in each engine's words.
_VLLM_TOOLS = {
    "harmony": "openai",
    "minimax": "minimax_m2",
    "qwen_xml": "qwen3_coder",
    "glm": "glm45",
    "deepseek": "deepseek_v3",
    "kimi": "kimi_k2",
    "mistral": "mistral",
    "lfm": "lfm2",
    "granite": "granite",
    "hermes": "hermes",
    "pythonic": "pythonic",
    "llama": "llama3_json",
}
_VLLM_REASONING = {"harmony": "openai_gptoss", "mistral": "mistral", "granite": "granite", "think": "qwen3"}
_SGLANG_TOOLS = {
    "harmony": "gpt-oss",
    "qwen_xml": "qwen3_coder",
    "glm": "glm45",
    "deepseek": "deepseekv3",
    "kimi": "kimi_k2",
    "mistral": "mistral",
    "hermes": "qwen25",
    "pythonic": "pythonic",
    "llama": "llama3",
}
_SGLANG_REASONING = {"harmony": "gpt-oss", "think": "qwen3"}


class EngineSettingError(ValueError):
    """This engine cannot do what the field says. The message is for administrators."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What a model's row says of how its replicas are started."""

    engine: str
    name: str
    source: str
    revision: str = ""
    model_impl: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    attn_implementation: str = ""
    quantization: str = ""
    max_model_len: int | None = None
    max_num_seqs: int = 64
    kv_cache_bytes: int | None = None
    speculation: str = "auto"
    batch_invariant: bool = False
    tool_call_parser: str = ""
    reasoning_parser: str = ""
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where on this machine it is to run. `ports` are free ones, for what an engine listens on beside its API."""

    executable: str
    version: Version
    host: str
    port: int
    folder: str  # of this replica alone
    token: str = field(repr=False)
    ports: tuple[int, ...] = ()


class Launch(NamedTuple):
    """A command line, what is added to its environment, and files to be written first, for the owner alone."""

    command: list[str]
    environment: dict[str, str]
    files: dict[str, str]


def check_settings(settings: EngineSettings) -> None:
    """Raises EngineSettingError for what no version of the engine can do."""
    _make(settings, Place("engine", (999,), "127.0.0.1", 1, "/", "", (2, 3)))


def make_launch(settings: EngineSettings, place: Place) -> Launch:
    """Raises EngineSettingError, also for a version that is too old."""
    oldest = OLDEST[settings.engine]
    if place.version < oldest:
        found, needed = (".".join(map(str, version)) for version in (place.version, oldest))
        raise EngineSettingError("engine", f"{settings.engine} {found} is too old: {needed} is needed.")
    return _make(settings, place)


def parse_version(text: str) -> Version | None:
    """The first thing in it that looks like a version: 0.32.0 of `vLLM 0.32.0+cpu`. None: there is none."""
    for word in text.replace("+", " ").replace("-", " ").split():
        parts = word.lstrip("v").split(".")
        numbers = [int(part) for part in parts[:3] if part.isdigit()]
        if len(parts) > 1 and len(numbers) > 1:
            return tuple(numbers)
    return None


def _make(settings: EngineSettings, place: Place) -> Launch:
    _check_common(settings)
    return _MAKERS[settings.engine](settings, place)


def _make_vllm(settings: EngineSettings, place: Place) -> Launch:
    flags = ["--host", place.host, "--port", str(place.port), "--served-model-name", settings.name]
    flags += ["--model-impl", "vllm" if settings.model_impl == "native" else settings.model_impl]
    flags += _common_flags(settings, revision="--revision", dtype="--dtype", max_model_len="--max-model-len")
    flags += ["--max-num-seqs", str(settings.max_num_seqs)]
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        if (size := getattr(settings, name)) > 1:
            flags += [f"--{name.replace('_', '-')}", str(size)]
    if settings.quantization:
        flags += ["--quantization", _pick(settings, "quantization", {"bnb-4bit": "bitsandbytes"})]
    if settings.tool_call_parser not in ("", "none"):
        flags += ["--enable-auto-tool-choice"]
        flags += ["--tool-call-parser", _pick(settings, "tool_call_parser", _VLLM_TOOLS)]
    if settings.reasoning_parser not in ("", "none"):
        flags += ["--reasoning-parser", _pick(settings, "reasoning_parser", _VLLM_REASONING)]
    environment = {"VLLM_API_KEY": place.token, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if settings.kv_cache_bytes is not None:
        flags += ["--kv-cache-memory-bytes", str(settings.kv_cache_bytes)]
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(-(-settings.kv_cache_bytes // GIB))  # its CPU build reads this one
    return Launch([place.executable, "serve", settings.source, *flags], environment | _choose_device(settings), {})


def _make_sglang(settings: EngineSettings, place: Place) -> Launch:
    """The key goes into a file: a command line is everybody's to read."""
    config = f"{place.folder}/sglang.yaml"
    flags = ["--config", config, "--model-path", settings.source, "--host", place.host, "--port", str(place.port)]
    flags += ["--served-model-name", settings.name, "--enable-metrics"]
    flags += ["--model-impl", "sglang" if settings.model_impl == "native" else settings.model_impl]
    flags += _common_flags(settings, revision="--revision", dtype="--dtype", max_model_len="--context-length")
    flags += ["--max-running-requests", str(settings.max_num_seqs)]
    for name, flag in (
        ("tensor_parallel_size", "--tp-size"),
        ("pipeline_parallel_size", "--pp-size"),
        ("data_parallel_size", "--dp-size"),
    ):
        if (size := getattr(settings, name)) > 1:
            flags += [flag, str(size)]
    _refuse(settings, "quantization", "kv_cache_bytes")
    if settings.tool_call_parser not in ("", "none"):
        flags += ["--tool-call-parser", _pick(settings, "tool_call_parser", _SGLANG_TOOLS)]
    if settings.reasoning_parser not in ("", "none"):
        flags += ["--reasoning-parser", _pick(settings, "reasoning_parser", _SGLANG_REASONING)]
    command = [place.executable, "-m", "sglang.launch_server", *flags]
    return Launch(command, _choose_device(settings), {config: f'api-key: "{place.token}"\n'})


def _make_tgi(settings: EngineSettings, place: Place) -> Launch:
    _refuse(settings, "kv_cache_bytes", "tool_call_parser", "reasoning_parser")
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        if getattr(settings, name) > 1:
            raise EngineSettingError(name, "TGI cannot do that.")
    if settings.model_impl != "auto":
        raise EngineSettingError("model_impl", "TGI chooses by itself.")
    if settings.dtype == "float32":
        raise EngineSettingError("dtype", "TGI runs in float16 and bfloat16.")
    flags = ["--model-id", settings.source, "--hostname", place.host, "--port", str(place.port), "--usage-stats", "off"]
    flags += _common_flags(settings, revision="--revision", dtype="--dtype", max_model_len="--max-total-tokens")
    flags += ["--max-concurrent-requests", str(settings.max_num_seqs)]
    flags += ["--num-shard", str(settings.tensor_parallel_size)]
    master_port, prometheus_port = place.ports
    flags += ["--master-port", str(master_port), "--prometheus-port", str(prometheus_port)]
    flags += ["--shard-uds-path", f"{place.folder}/shard"]
    if settings.quantization:
        methods = {"bnb-8bit": "bitsandbytes", "bnb-4bit": "bitsandbytes-nf4"}
        flags += ["--quantize", _pick(settings, "quantization", methods)]
    return Launch([place.executable, *flags], {"API_KEY": place.token} | _choose_device(settings), {})


_MAKERS: dict[str, Callable[[EngineSettings, Place], Launch]] = {
    "vllm": _make_vllm,
    "sglang": _make_sglang,
    "tgi": _make_tgi,
}


def _check_common(settings: EngineSettings) -> None:
    _refuse(settings, "attn_implementation", "batch_invariant")
    if settings.speculation == "ngram":
        raise EngineSettingError("speculation", "Only Atrium's own engine guesses tokens.")
    if split_source(settings.source).gguf_file:
        raise EngineSettingError("source", "Only Atrium's own engine reads GGUF files.")
    if settings.source.startswith("-") or settings.revision.startswith("-"):
        raise EngineSettingError("source", "A source or a revision does not begin with a hyphen.")


def _common_flags(settings: EngineSettings, *, revision: str, dtype: str, max_model_len: str) -> list[str]:
    flags = [revision, settings.revision] if settings.revision else []
    flags += [dtype, settings.dtype] if settings.dtype != "auto" else []
    return flags + ([max_model_len, str(settings.max_model_len)] if settings.max_model_len else [])


def _choose_device(settings: EngineSettings) -> dict[str, str]:
    """One GPU by number. Otherwise the engine takes what it was built for, in the order that the machine shows."""
    kind, _, number = settings.device.partition(":")
    if kind == "mps":
        raise EngineSettingError("device", "Only Atrium's own engine runs there.")
    if not number:
        return {}
    if settings.tensor_parallel_size * settings.pipeline_parallel_size * settings.data_parallel_size > 1:
        raise EngineSettingError("device", "One GPU by number cannot be combined with several.")
    return {"CUDA_VISIBLE_DEVICES": number}


def _pick(settings: EngineSettings, name: str, known: dict[str, str]) -> str:
    value: str = getattr(settings, name)
    if value not in known:
        raise EngineSettingError(name, f"{settings.engine} has no '{value}'.")
    return known[value]


def _refuse(settings: EngineSettings, *names: str) -> None:
    for name in names:
        if getattr(settings, name):
            raise EngineSettingError(name, f"{settings.engine} has no such setting here.")

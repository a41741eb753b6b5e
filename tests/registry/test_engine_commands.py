"""The command lines of other engines, setting by setting and version by version."""

from typing import Any

import pytest

from apps.registry.engine_commands import (
    EngineSettingError,
    EngineSettings,
    Launch,
    Place,
    Version,
    check_settings,
    make_launch,
    parse_version,
)


def make(engine: str, version: Version, **fields: Any) -> Launch:
    settings = EngineSettings(engine=engine, name="team/m", **{"source": "org/m", **fields})
    place = Place("/e/bin/x", version, "10.0.0.5", 8100, "/data/r", "secret", (8101, 8102))
    return make_launch(settings, place)


VLLM = (0, 32, 0)
SGLANG = (0, 5, 9)
TGI = (3, 3, 6)
# Settings -> what stands in the command for them, one flag after the other.
CASES: list[tuple[str, Version, dict[str, Any], list[str]]] = [
    ("vllm", VLLM, {"model_impl": "transformers"}, ["--model-impl", "transformers"]),
    ("vllm", VLLM, {"model_impl": "native"}, ["--model-impl", "vllm"]),
    ("vllm", VLLM, {"revision": "abc"}, ["--revision", "abc"]),
    ("vllm", VLLM, {"dtype": "bfloat16"}, ["--dtype", "bfloat16"]),
    ("vllm", VLLM, {"max_model_len": 4096}, ["--max-model-len", "4096"]),
    ("vllm", VLLM, {"max_num_seqs": 9}, ["--max-num-seqs", "9"]),
    ("vllm", VLLM, {"tensor_parallel_size": 4}, ["--tensor-parallel-size", "4"]),
    ("vllm", VLLM, {"pipeline_parallel_size": 2}, ["--pipeline-parallel-size", "2"]),
    ("vllm", VLLM, {"data_parallel_size": 2}, ["--data-parallel-size", "2"]),
    ("vllm", VLLM, {"quantization": "bnb-4bit"}, ["--quantization", "bitsandbytes"]),
    ("vllm", VLLM, {"tool_call_parser": "hermes"}, ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]),
    ("vllm", VLLM, {"tool_call_parser": "llama"}, ["--tool-call-parser", "llama3_json"]),
    ("vllm", VLLM, {"reasoning_parser": "think"}, ["--reasoning-parser", "qwen3"]),
    ("vllm", VLLM, {"kv_cache_bytes": 2**30 + 1}, ["--kv-cache-memory-bytes", str(2**30 + 1)]),
    ("sglang", SGLANG, {"model_impl": "transformers"}, ["--model-impl", "transformers"]),
    ("sglang", SGLANG, {"max_model_len": 4096}, ["--context-length", "4096"]),
    ("sglang", SGLANG, {"max_num_seqs": 9}, ["--max-running-requests", "9"]),
    ("sglang", SGLANG, {"tensor_parallel_size": 4, "data_parallel_size": 2}, ["--tp-size", "4", "--dp-size", "2"]),
    ("sglang", SGLANG, {"pipeline_parallel_size": 2}, ["--pp-size", "2"]),
    ("sglang", SGLANG, {"tool_call_parser": "hermes"}, ["--tool-call-parser", "qwen25"]),
    ("sglang", SGLANG, {"reasoning_parser": "harmony"}, ["--reasoning-parser", "gpt-oss"]),
    ("tgi", TGI, {"max_model_len": 4096}, ["--max-total-tokens", "4096"]),
    ("tgi", TGI, {"tensor_parallel_size": 4}, ["--num-shard", "4"]),
    ("tgi", TGI, {"quantization": "bnb-4bit"}, ["--quantize", "bitsandbytes-nf4"]),
]


def name_case(case: tuple[str, Version, dict[str, Any], list[str]]) -> str:
    return f"{case[0]}-{case[1][1]}-{'-'.join(f'{name}={value}' for name, value in case[2].items())}"


@pytest.mark.parametrize(("engine", "version", "fields", "flags"), CASES, ids=map(name_case, CASES))
def test_a_setting_becomes_its_flags(engine: str, version: Version, fields: dict[str, Any], flags: list[str]) -> None:
    command = make(engine, version, **fields).command
    start = command.index(flags[0])
    assert command[start : start + len(flags)] == flags


def test_the_whole_command_of_each() -> None:
    name = ["--served-model-name", "team/m"]
    at = ["--host", "10.0.0.5", "--port", "8100"]
    assert make("vllm", VLLM).command == [
        *("/e/bin/x", "serve", "org/m", *at, *name),
        *("--model-impl", "auto", "--max-num-seqs", "64"),
    ]
    assert make("sglang", SGLANG).command == [
        *("/e/bin/x", "-m", "sglang.launch_server", "--config", "/data/r/sglang.yaml", "--model-path", "org/m"),
        *(*at, *name, "--enable-metrics", "--model-impl", "auto", "--max-running-requests", "64"),
    ]
    assert make("tgi", TGI).command == [
        *("/e/bin/x", "--model-id", "org/m", "--hostname", "10.0.0.5", "--port", "8100", "--usage-stats", "off"),
        *("--max-concurrent-requests", "64", "--num-shard", "1", "--master-port", "8101"),
        *("--prometheus-port", "8102", "--shard-uds-path", "/data/r/shard"),
    ]


def test_the_token_is_no_part_of_a_command_line() -> None:
    made = {engine: make(engine, (9, 0)) for engine in ("vllm", "sglang", "tgi")}
    assert not any("secret" in word for launch in made.values() for word in launch.command)
    assert made["vllm"].environment["VLLM_API_KEY"] == "secret"
    assert made["sglang"].files == {"/data/r/sglang.yaml": 'api-key: "secret"\n'}
    assert made["tgi"].environment["API_KEY"] == "secret"


def test_the_environment_chooses_one_gpu_and_the_cache_of_vllms_cpu_build() -> None:
    made = make("vllm", VLLM, device="cuda:3", kv_cache_bytes=2**30 + 1)
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert made.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((engine, {"attn_implementation": "eager"}, "attn_implementation") for engine in ("vllm", "sglang", "tgi")),
    *((engine, {"batch_invariant": True}, "batch_invariant") for engine in ("vllm", "sglang", "tgi")),
    ("vllm", {"speculation": "ngram"}, "speculation"),
    ("vllm", {"source": "org/m:a.gguf"}, "source"),
    ("vllm", {"source": "--trust-remote-code"}, "source"),
    ("vllm", {"quantization": "int8"}, "quantization"),
    ("vllm", {"tool_call_parser": "response_template"}, "tool_call_parser"),
    ("vllm", {"device": "cuda:1", "tensor_parallel_size": 2}, "device"),
    ("vllm", {"device": "mps"}, "device"),
    ("sglang", {"kv_cache_bytes": 1}, "kv_cache_bytes"),
    ("sglang", {"quantization": "bnb-4bit"}, "quantization"),
    ("tgi", {"pipeline_parallel_size": 2}, "pipeline_parallel_size"),
    ("tgi", {"data_parallel_size": 2}, "data_parallel_size"),
    ("tgi", {"dtype": "float32"}, "dtype"),
    ("tgi", {"model_impl": "transformers"}, "model_impl"),
    ("tgi", {"tool_call_parser": "hermes"}, "tool_call_parser"),
]


@pytest.mark.parametrize(
    ("engine", "fields", "name"), REFUSED, ids=[f"{case[0]}-{case[2]}-{i}" for i, case in enumerate(REFUSED)]
)
def test_what_an_engine_cannot_do_is_refused_by_name(engine: str, fields: dict[str, Any], name: str) -> None:
    with pytest.raises(EngineSettingError) as caught:
        check_settings(EngineSettings(engine=engine, name="m", **{"source": "org/m", **fields}))
    assert caught.value.field == name


def test_a_version_that_is_too_old_is_refused() -> None:
    with pytest.raises(EngineSettingError, match=r"vllm 0\.9\.2 is too old: 0\.11 is needed"):
        make("vllm", (0, 9, 2))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.32.0+cpu\n", (0, 32, 0)),
        ("vLLM 0.11.1rc2.dev3", (0, 11)),
        ("text-generation-launcher 3.3.6", (3, 3, 6)),
        ("v0.5.9.post1", (0, 5, 9)),
        ("no version", None),
    ],
    ids=["vllm", "vllm-dev", "tgi", "sglang", "none"],
)
def test_versions_are_read(text: str, version: Version | None) -> None:
    assert parse_version(text) == version

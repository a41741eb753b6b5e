"""The flags of `manage.py serve`, read once into checked values. Starts nothing and asks no database.

The flags are those of `transformers serve`, so that its users find them, in both spellings. A flag that cannot be
honoured is an error.
"""

import argparse
import importlib.util
import json
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from django.core.exceptions import ValidationError

from apps.registry.models import QUANTIZATIONS, REASONING_PARSERS, TOOL_CALL_PARSERS, Reasoning, Speculation
from apps.registry.validators import validate_adapter_source, validate_model_name
from gpu_worker.protocol import split_source

DTYPES = ("auto", "bfloat16", "float16", "float32")
COMPILE_MODES = ("auto", "on", "off")
LOG_LEVELS = ("debug", "info", "warning", "error")
# Those whose value is that of the model's field of the same name.
_PLAIN_FLAGS = (
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "kv_cache_bytes",
    "max_loras",
    "attn_implementation",
    "reasoning",
    "tool_call_parser",
    "reasoning_parser",
    "speculation",
)
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_ANY_HOST = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound to
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class OptionError(ValueError):
    """Flags that cannot be honoured; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `serve` was asked for."""

    host: str
    port: int
    num_workers: int
    log_level: str
    enable_cors: bool
    force_model: bool
    name: str | None  # None: the demo model
    source: str | None
    revision: str
    is_kept_loaded: bool  # False: an idle timeout was asked for, and applies to the preloaded model too
    compile: str | None = None  # None: as the settings say
    approves_code: bool = False  # the Python code of the model's repository, as it is now
    adapters: dict[str, tuple[str, str]] = field(default_factory=dict)  # name to source and revision
    fields: dict[str, Any] = field(default_factory=dict)  # of HostedModel: those that flags name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare every flag."""
    parser.add_argument(
        "model",
        nargs="?",
        help="hub id, id@revision, a folder, or a GGUF file of one of them (id:file.gguf); none: the demo model",
    )
    parser.add_argument("--served-model-name", help="what clients call it; default: the id, or the folder's name")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="number of web processes")
    parser.add_argument("--log-level", default="info", choices=LOG_LEVELS)
    parser.add_argument("--enable-cors", action="store_true", help="let web pages of any origin call the API")
    parser.add_argument("--force-model", metavar="MODEL", help="serve this model and answer 400 for any other name")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--attn-implementation", metavar="NAME")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="approve the Python code of the model's repository as it is now",
    )
    parser.add_argument("--quantization", choices=QUANTIZATIONS, help="make the weights smaller while loading")
    parser.add_argument("--load-in-4bit", action="store_true", help="the same as --quantization bnb-4bit")
    parser.add_argument("--load-in-8bit", action="store_true", help="the same as --quantization bnb-8bit")
    parser.add_argument("--max-model-len", type=int, help="tokens of prompt and answer together")
    parser.add_argument("--max-num-seqs", type=int, help="requests that may run at once")
    parser.add_argument(
        "--kv-cache-bytes", type=int, help="memory for keys and values; default: a part of what is free"
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a LoRA adapter that clients may name: hub id, id@revision, or a folder; may be repeated",
    )
    parser.add_argument("--max-loras", type=int, help="adapters kept loaded at once")
    parser.add_argument(
        "--model-timeout", type=int, metavar="SECONDS", help="unload after so long without work; 0: never"
    )
    parser.add_argument("--default-seed", type=int, help="for requests that give none")
    parser.add_argument("--reasoning", choices=Reasoning.values, help="auto: as the chat template says")
    parser.add_argument("--tool-call-parser", choices=TOOL_CALL_PARSERS, help="default: as the chat template says")
    parser.add_argument("--reasoning-parser", choices=REASONING_PARSERS, help="default: as the chat template says")
    parser.add_argument(
        "--speculation", choices=Speculation.values, help="guess tokens from the text so far; auto: where it pays"
    )
    parser.add_argument(
        "--batch-invariant", action="store_true", help="the same tokens alone and in any batch, in bf16 too; slower"
    )
    parser.add_argument("--chat-template-kwargs", metavar="JSON", help="an object handed to the chat template")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="on",
        choices=COMPILE_MODES,
        help="compiled steps on CPUs; auto, the default, makes them in the background; alone it means on",
    )
    parser.add_argument("--continuous-batching", action="store_true", help="accepted; it is always on")


def add_underscore_spellings(parser: argparse.ArgumentParser) -> None:
    """--attn_implementation for --attn-implementation, and so on for every flag declared so far."""
    for action in list(parser._actions):
        for flag in action.option_strings:
            if flag.startswith("--") and "-" in flag[2:]:
                spelling = "--" + flag[2:].replace("-", "_")
                parser._option_string_actions.setdefault(spelling, action)


def read_options(given: dict[str, Any]) -> ServeOptions:
    """Check the parsed flags. Raises OptionError."""
    model, forced = given["model"], given["force_model"]
    if model and forced and model != forced:
        raise OptionError(f"--force-model {forced} and the model {model} contradict each other.")
    if not 1 <= given["port"] <= 65535:
        raise OptionError("--port must be from 1 to 65535.")
    if given["workers"] < 1:
        raise OptionError("--workers must be at least 1.")
    name, source, revision = _read_model(forced or model, given["served_model_name"])
    timeout_s = given["model_timeout"]
    return ServeOptions(
        host=given["host"],
        port=given["port"],
        num_workers=given["workers"],
        log_level=given["log_level"],
        enable_cors=given["enable_cors"],
        force_model=bool(forced),
        name=name,
        source=source,
        revision=revision,
        is_kept_loaded=timeout_s is None or timeout_s <= 0,
        compile=given["compile"],
        approves_code=given["trust_remote_code"],
        adapters=dict(_read_adapter(text) for text in given["lora"]),
        fields=_read_fields(given),
    )


def find_allowed_hosts(host: str) -> list[str]:
    """Host headers by which a server bound to this address may be called, beside the usual local ones.

    Bound to every interface it may be called by this machine's own names and addresses. Any other name, a proxy's for
    one, must be set: accepting every Host header would let other sites' names resolve to this server in a browser.
    """
    if host in _LOOPBACK:
        return []
    if host not in _ANY_HOST:
        return [_bracket(host)]
    addresses = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    ips = [a.address.partition("%")[0] for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)]
    return sorted({socket.gethostname(), socket.getfqdn(), *map(_bracket, ips)})


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _read_model(text: str | None, served_name: str | None) -> tuple[str | None, str | None, str]:
    """Name, source and revision."""
    if not text:
        if served_name:
            raise OptionError("--served-model-name needs a model.")
        return None, None, ""
    place, file = split_source(text)
    folder = Path(place).expanduser()
    suffix = f":{file}" if file else ""
    if folder.is_dir():
        if file and not (folder / file).is_file():
            raise OptionError(f"There is no file {file} in {place}.")
        source, revision, name = f"{folder.resolve()}{suffix}", "", served_name or f"{folder.resolve().name}{suffix}"
    elif place.startswith((".", "/", "~")):
        raise OptionError(f"There is no folder {place}.")
    else:
        place, _, revision = place.partition("@")
        source = f"{place}{suffix}"
        name = served_name or source
    try:
        validate_model_name(name)
    except ValidationError as error:
        raise OptionError(f"A model cannot be served under the name {name!r}: {' '.join(error.messages)}") from error
    return name, source, revision


def _read_adapter(text: str) -> tuple[str, tuple[str, str]]:
    name, _, wanted = text.partition("=")
    if not name or not wanted:
        raise OptionError(f"--lora takes NAME=SOURCE, not {text!r}.")
    _, source, revision = _read_model(wanted, name)
    source = source or ""
    try:
        validate_adapter_source(source)
    except ValidationError as error:
        raise OptionError(f"--lora {text}: {' '.join(error.messages)}") from error
    return name, (source, revision)


def _read_fields(given: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for flag in _PLAIN_FLAGS:
        if given[flag] is not None:
            fields[flag] = given[flag]
    if given["device"] is not None:
        if not _DEVICE.fullmatch(given["device"]):
            raise OptionError("--device must be auto, cpu, cuda, cuda:N or mps.")
        fields["device"] = given["device"]
    if given["batch_invariant"]:
        fields["batch_invariant"] = True
    if given["model_timeout"] is not None:
        fields["idle_timeout_s"] = max(0, given["model_timeout"])
    if quantization := _read_quantization(given):
        fields["quantization"] = quantization
    if fields.get("kv_cache_bytes", 1) < 1:
        raise OptionError("--kv-cache-bytes must be at least 1.")
    if fields.get("max_loras", 0) < 0:
        raise OptionError("--max-loras must not be negative.")
    if given["default_seed"] is not None:
        if not 0 <= given["default_seed"] < 2**63:
            raise OptionError("--default-seed must be from 0 to 2**63 - 1.")
        fields["generation_defaults"] = {"seed": given["default_seed"]}
    if kwargs := _read_template_kwargs(given):
        fields["chat_template_kwargs"] = kwargs
    return fields


def _read_quantization(given: dict[str, Any]) -> str | None:
    wanted = {given["quantization"]} if given["quantization"] else set()
    wanted |= {"bnb-4bit"} if given["load_in_4bit"] else set()
    wanted |= {"bnb-8bit"} if given["load_in_8bit"] else set()
    if len(wanted) > 1:
        raise OptionError("Choose one quantization.")
    quantization = wanted.pop() if wanted else None
    if quantization in ("bnb-4bit", "bnb-8bit") and importlib.util.find_spec("bitsandbytes") is None:
        raise OptionError(f"The quantization {quantization} needs the package bitsandbytes: pip install bitsandbytes.")
    return quantization


def _read_template_kwargs(given: dict[str, Any]) -> dict[str, Any]:
    kwargs: Any = {}
    if given["chat_template_kwargs"]:
        try:
            kwargs = json.loads(given["chat_template_kwargs"])
        except ValueError as error:
            raise OptionError(f"--chat-template-kwargs is not JSON: {error}.") from error
        if not isinstance(kwargs, dict):
            raise OptionError("--chat-template-kwargs must be a JSON object.")
    return kwargs

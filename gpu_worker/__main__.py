"""`python -m gpu_worker`: reads the configuration, prepares the process, and runs the worker.

Everything that must happen before torch is imported happens here.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from gpu_worker.protocol import WorkerConfig, read_worker_config

EXIT_BAD_CONFIGURATION = 2
# Every operator of torch gives up the GIL; beside a thread that renders a long prompt, the engine would wait this long
# to get it back, hundreds of times a step.
_SWITCH_INTERVAL_S = 0.0005
# Rounds of libgomp's waiting loop, about 50 ns each: the gaps within a step are shorter, those between steps longer.
_BRIEF_SPIN_COUNT = "2000"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 stopped, 2 bad configuration, 3 load failed, 4 engine failed."""
    options = _build_parser().parse_args(arguments)
    try:
        config = _read_config(options)
    except (msgspec.ValidationError, msgspec.DecodeError, OSError, ValueError) as error:
        sys.stderr.write(f"bad configuration: {error}\n")
        return EXIT_BAD_CONFIGURATION
    _prepare_environment(config)
    from gpu_worker.server.process import run_worker

    try:
        return run_worker(config)
    except OSError as error:
        sys.stderr.write(f"cannot listen: {error}\n")
        return EXIT_BAD_CONFIGURATION


def _build_parser() -> argparse.ArgumentParser:
    """One flag for each field of WorkerConfig, so that the two cannot differ."""
    parser = argparse.ArgumentParser(prog="python -m gpu_worker", description="Serve one model to web processes.")
    parser.add_argument("--config", type=Path, help="JSON file with the fields of WorkerConfig; flags override it")
    for field in msgspec.structs.fields(WorkerConfig):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
        else:
            parser.add_argument(flag, metavar=_name_type(field.type))
    return parser


def _name_type(type_: Any) -> str:
    """What a flag takes, for --help."""
    names = [getattr(arg, "__name__", None) or "|".join(map(str, get_args(arg))) for arg in get_args(type_)]
    return "|".join(name for name in names if name != "NoneType") or getattr(type_, "__name__", "VALUE")


def _read_config(options: argparse.Namespace) -> WorkerConfig:
    """Raises msgspec.ValidationError, OSError, ValueError."""
    values: dict[str, Any] = {}
    if options.config is not None:
        values = msgspec.to_builtins(read_worker_config(options.config))
    given = vars(options)
    values |= {name: value for name, value in given.items() if value is not None and name != "config"}
    config = msgspec.convert(values, WorkerConfig, strict=False)
    if not config.token and config.fd is None and config.host not in _LOOPBACK:
        raise ValueError(f"a token is required to listen on {config.host}")
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ValueError("tls_cert and tls_key go together")
    if config.log_level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"there is no log level {config.log_level}")
    return config


def _prepare_environment(config: WorkerConfig) -> None:
    level = config.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(max(logging.WARNING, logging.getLogger().level))
    # libgomp reads these once, when torch loads it
    if config.omp_wait_policy is not None:
        os.environ["OMP_WAIT_POLICY"] = "active" if config.omp_wait_policy == "active" else "passive"
        if config.omp_wait_policy == "brief":
            os.environ["GOMP_SPINCOUNT"] = _BRIEF_SPIN_COUNT
    # prompts are tokenized one at a time: a thread pool for each would only take cores from the engine
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


if __name__ == "__main__":
    sys.exit(main())

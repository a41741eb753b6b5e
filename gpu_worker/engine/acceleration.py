"""Makes a paged model fast on a CPU: our C++ operators, packed weights, then the whole forward pass compiled.

Each step is compared with the one before it by the probe's sequences, and undone or left out if logits differ: what
cannot be made faster is served as it was. Building and compiling happen in a child process (`compile_child`) and are
kept on disk; meanwhile the engine serves. What is ready is taken up between two steps, in the engine thread.

    plain torch ──► native attention ──► packed, fused weights ──► compiled forward
         (needs a C++ compiler once)                     (needs the artifact of this model's shapes)
"""

import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from gpu_worker.engine import packing
from gpu_worker.engine.compiled import ArtifactError, ArtifactSpec, load_artifact, start_compiling
from gpu_worker.engine.kv_cache import KVCache
from gpu_worker.engine.model_runner import CompiledForward, ModelRunner
from gpu_worker.engine.native_step import NativeState
from gpu_worker.engine.probe import (
    PagedLayers,
    UnsupportedModelError,
    compare_logits,
    make_sequences,
    run_once,
    run_paged,
)
from gpu_worker.kernels.native import NATIVE_DTYPES, NativeError, find_compiler, get_library_path, load_library
from gpu_worker.kernels.weight_only import get_weight_bits
from gpu_worker.protocol import WorkerConfig

logger = logging.getLogger(__name__)

# Beyond this a child is not worth waiting for, and something is wrong with it.
_COMPILE_TIMEOUT_S = 1800.0


def accelerate(model: Any, layers: PagedLayers, runner: ModelRunner, config: WorkerConfig) -> "Acceleration | None":
    """Take up what is prepared already; with `compile` on, prepare it first. None where there is nothing to gain.

    Raises ValueError when `compile` is on and the forward pass does not end up compiled.
    """
    if config.compile == "off":
        return None
    if obstacle := find_obstacle(model):
        if config.compile == "on":
            raise ValueError(f"compile is set to on, but this model cannot be compiled. {obstacle}")
        logger.info("no compiled steps: %s", obstacle)
        return None
    folder = find_cache_folder(config)
    acceleration = Acceleration(model, layers, runner, folder)
    if config.compile == "on":
        acceleration.prepare()
    acceleration.take_up()
    if config.compile == "on" and runner.compiled is None:
        raise ValueError("compile is set to on, but this model could not be compiled. The log says why.")
    return acceleration


def find_cache_folder(config: WorkerConfig) -> Path:
    """Where what was built and compiled is kept."""
    if config.compile_cache:
        return Path(config.compile_cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "atrium" / "compiled"


def find_obstacle(model: Any) -> str:
    """Why this model cannot be accelerated here, in a sentence; empty if it can."""
    if model.device.type != "cpu":
        return "Compiled steps are for CPUs."
    if model.config.get_text_config() is not model.config:
        return "It is more than a text model."
    if getattr(model, "hf_quantizer", None) is not None or get_weight_bits(model) is not None:
        return "Its weights are quantized."
    if type(model).__module__.partition(".")[0] != "transformers":
        return "It brings its own code."
    if not torch.backends.mkldnn.is_available():
        return "This build of torch has no oneDNN."
    if any(p.dtype not in NATIVE_DTYPES for p in model.parameters()):
        return f"Its weights are {str(model.dtype).removeprefix('torch.')}: only float32 and bfloat16 are compiled."
    if find_compiler() is None:
        return "There is no C++ compiler."
    return ""


class Acceleration:
    """Of one model and its runner. All methods but `prepare` and `cancel` belong to the engine thread."""

    def __init__(self, model: Any, layers: PagedLayers, runner: ModelRunner, folder: Path) -> None:
        self._model = model
        self._layers = layers
        self._runner = runner
        self._folder = folder
        self._sequences = make_sequences(model)
        self._expected = [logits_TV.to(model.dtype) for logits_TV in run_paged(model, layers, self._sequences)]
        self._groups = packing.find_groups(model, lambda: run_once(model, layers, self._sequences[0][:16]))
        self._spec = ArtifactSpec.of(model, layers.layer_of, self._groups)
        self._child: subprocess.Popen[str] | None = None
        self._is_cancelled = False
        self.is_packed = False

    @property
    def is_prepared(self) -> bool:
        """Whether everything that takes long lies on disk already."""
        return get_library_path(self._folder).is_file() and self._spec.get_path(self._folder).is_file()

    def prepare(self) -> None:
        """Build and compile what is missing, in a child process. Blocking, for a minute; any thread but the event
        loop's. What went wrong is in the log: `take_up` uses what there is."""
        if self.is_prepared or self._is_cancelled:
            return
        started_s = time.monotonic()
        self._child = start_compiling(self._spec, self._folder)
        try:
            _, errors = self._child.communicate(timeout=_COMPILE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            _, errors = self._child.communicate()
        if self._child.returncode != 0 and not self._is_cancelled:
            last_line = (errors.strip().splitlines() or ["no message"])[-1]
            logger.warning("the forward pass was not compiled: %s", last_line)
        elif not self._is_cancelled:
            logger.info("the forward pass was compiled in %.0f s", time.monotonic() - started_s)

    def cancel(self) -> None:
        """The worker stops: a child still compiling is of no use to it."""
        self._is_cancelled = True
        if self._child is not None and self._child.poll() is None:
            self._child.kill()

    def take_up(self, *, may_compile: bool = True) -> None:
        """Use what is prepared, as far as it gives the logits it should. Never raises for what can be left out."""
        try:
            if self._runner.native is None and get_library_path(self._folder).is_file():
                self._take_up_native()
            native = self._runner.native
            is_next = native is not None and self.is_packed and self._runner.compiled is None
            if native is not None and is_next and may_compile and self.is_prepared:
                self._take_up_compiled(native)
        except (NativeError, ArtifactError, packing.PackingError, UnsupportedModelError) as error:
            logger.warning("acceleration stops at %s: %s", self.describe(), error)
        logger.info("the model runs on %s", self.describe())

    def describe(self) -> str:
        """What steps run on."""
        if self._runner.compiled is not None:
            return "a compiled forward pass"
        if self._runner.native is None:
            return "plain torch"
        return "native attention and packed weights" if self.is_packed else "native attention"

    def _take_up_native(self) -> None:
        load_library(get_library_path(self._folder))
        native = NativeState(self._runner.cache)
        self._check(native)
        self._runner.native = native
        linears = packing.list_linears(self._model, self._groups)
        products = packing.replace_linears(self._model, self._groups)
        try:
            self._check(native)
        except UnsupportedModelError:
            packing.restore_linears(self._model, linears)
            raise
        del linears  # from here on a product's dense weights are freed as soon as they are packed
        packing.pack_all(products, native.number)
        self._check(native)
        self.is_packed = True

    def _take_up_compiled(self, native: NativeState) -> None:
        forward = load_artifact(self._spec.get_path(self._folder), self._model)
        self._check(native, forward)
        self._runner.compiled = forward

    def _check(self, native: NativeState, compiled: CompiledForward | None = None) -> None:
        """Raises UnsupportedModelError if the logits are not those of plain torch."""

        def make_runner(cache: KVCache) -> ModelRunner:
            own = NativeState(cache, weights_of=native)
            return ModelRunner(self._model, self._layers.layer_of, cache, native=own, compiled=compiled)

        actual = run_paged(self._model, self._layers, self._sequences, make_runner)
        for expected_TV, actual_TV in zip(self._expected, actual, strict=True):
            compare_logits(expected_TV, actual_TV)

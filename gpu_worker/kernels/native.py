"""Our C++ operators: built once for a machine, loaded into this process, described to the compiler.

Building takes a C++ compiler and ten seconds; the library is kept in a folder under a name that says what it was
built from and for. Without a compiler there is no library, and everything runs on plain torch.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

_SOURCES = [Path(__file__).with_name(name) for name in ("paged_cpu.cpp", "row_maximum.cpp", "forward_package.cpp")]
_HEADER = Path(__file__).with_name("decode_math.h")
# Products may be fused and sums reordered within a loop that says so; nothing may assume that there is no NaN.
_CAPABILITY = torch.backends.cpu.get_cpu_capability()  # which vectors torch's headers are to use
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c++20", "-shared", "-fPIC"]
_FLAGS += [f"-DCPU_CAPABILITY={_CAPABILITY}", f"-DCPU_CAPABILITY_{_CAPABILITY}"]
_BUILD_TIMEOUT_S = 300
NATIVE_DTYPES = (torch.float32, torch.bfloat16)


class NativeError(Exception):
    """The operators cannot be built or used here; the message is a sentence for the operator."""


def find_compiler() -> str | None:
    """The C++ compiler that inductor would use too."""
    return shutil.which(os.environ.get("CXX", "g++"))


def get_library_path(folder: Path) -> Path:
    """Where the library of this source, this torch and this kind of processor lies, built or not."""
    return folder / f"paged-{_get_build_key()}.so"


def build_library(folder: Path) -> Path:
    """Build the library unless it is there. Blocking, for seconds. Raises NativeError."""
    # Imports setuptools, which serving does not need.
    from torch.utils.cpp_extension import (
        include_paths,
        library_paths,
    )

    path = get_library_path(folder)
    if path.is_file():
        return path
    compiler = find_compiler()
    if compiler is None:
        raise NativeError("There is no C++ compiler.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / path.name
        includes = [f"-I{include}" for include in include_paths()]
        libraries = [*(f"-L{library}" for library in library_paths()), "-ltorch_cpu", "-ltorch", "-lc10"]
        command = [compiler, *_FLAGS, *includes, *map(str, _SOURCES), *libraries, "-o", str(built)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S)
        except subprocess.CalledProcessError as error:
            last_line = (error.stderr.strip().splitlines() or ["no message"])[-1]
            raise NativeError(f"The C++ compiler failed: {last_line}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NativeError(f"The C++ compiler failed: {error}") from error
        built.replace(path)
    return path


def load_library(path: Path) -> None:
    """Make the operators callable as `torch.ops.atrium`. Raises NativeError.

    A process loads one copy: torch aborts at the second, and any other is made of the same sources.
    """
    if hasattr(torch.ops.atrium, "begin_step"):
        return
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise NativeError(f"The operators cannot be loaded: {error}") from error
    torch.library.register_fake("atrium::attend", _describe_attend)
    torch.library.register_fake("atrium::linear", _describe_linear)


def find_maxima(logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maxima [R], NaN where any number is, and their first indices [R]; by our operator where it is loaded."""
    is_native = logits_RV.device.type == "cpu" and logits_RV.dtype in NATIVE_DTYPES
    if is_native and hasattr(torch.ops.atrium, "row_maximum"):
        values_R, indices_R = torch.ops.atrium.row_maximum(logits_RV)
        return values_R, indices_R
    found = logits_RV.float().max(dim=-1)
    return found.values, found.indices


def _describe_attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *options: object) -> torch.Tensor:
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def _describe_linear(x: torch.Tensor, index: int, num_outputs: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], num_outputs)


@functools.cache
def _get_build_key() -> str:
    sources = [source.read_text() for source in (*_SOURCES, _HEADER)]
    parts = [*sources, " ".join(_FLAGS), torch.__version__, find_processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@functools.cache
def find_processor() -> str:
    """What `-march=native` depends on: a folder may be shared by machines of different kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return torch.backends.cpu.get_cpu_capability()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))

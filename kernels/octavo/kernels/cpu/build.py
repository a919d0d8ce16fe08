"""Compiles the CPU kernels into one shared library, at install time. Needs a C++ compiler and nothing else.

Imported by the build hook by its path, before the package is installed, so it imports nothing of ours.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = Path(__file__).with_name("src")
LIBRARY = Path(__file__).with_name("liboctavo_cpu.so")

PER_ISA = {"kernels.cpp", "kernels_quantized.cpp"}
"""What is compiled once for each instruction set."""

AVX512 = ["-march=x86-64-v4", "-mprfchw"]
"""PREFETCHW, which all that have AVX-512 have too, belongs to no level."""

X86_FLAGS = {
    "amx": [*AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
    "avx512bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "avx512": AVX512,
    "avxvnni": ["-march=x86-64-v3", "-mavxvnni"],
    "avx2": ["-march=x86-64-v3"],
    "generic": [],
}

FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    # A product and a sum are rounded as they are written, in a tile of whatever size.
    "-ffp-contract=off",
    # Sums keep their order: nothing here may reassociate them.
    "-fno-math-errno",
    "-fno-trapping-math",
    # 64-byte vectors are passed between inlined functions only.
    "-Wno-psabi",
    "-Wno-ignored-attributes",
    # GCC warns of its own intrinsics.
    "-Wno-maybe-uninitialized",
]


class NoCompiler(Exception):
    """There is no C++ compiler on this machine."""


def build(library: Path = LIBRARY) -> Path:
    """Makes the library, unless it is newer than all that it is made of; its path.

    Of the environment, CXX names the compiler and LDFLAGS has more options for linking.

    Raises NoCompiler, or subprocess.CalledProcessError with the compiler's words in `stderr`.
    """
    inputs = [*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"), Path(__file__)]
    if library.is_file() and library.stat().st_mtime > max(file.stat().st_mtime for file in inputs):
        return library
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if not compiler:
        raise NoCompiler("no C++ compiler was found (g++, clang++, or what CXX names)")
    isas = X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else {"generic": []}
    with TemporaryDirectory() as folder:
        jobs: list[tuple[Path, list[str]]] = []
        for source in sorted(SOURCES.glob("*.cpp")):
            if source.name in PER_ISA:
                for isa, flags in isas.items():
                    output = Path(folder) / f"{source.stem}.{isa}.o"
                    jobs.append((output, [str(source), f"-DOCTAVO_ISA={isa}", *flags]))
            else:
                jobs.append((Path(folder) / f"{source.stem}.o", [str(source)]))

        def compile_one(job: tuple[Path, list[str]]) -> None:
            _run([compiler, *FLAGS, "-c", *job[1], "-o", str(job[0])])

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(compile_one, jobs))
        # Whole or not at all: another process may be loading it.
        unfinished = library.with_suffix(".new")
        objects = [str(output) for output, _ in jobs]
        static = ["-static-libstdc++", "-static-libgcc"] if "clang" not in Path(compiler).name else []
        more = shlex.split(os.environ.get("LDFLAGS", ""))
        _run([compiler, "-shared", *static, "-pthread", *objects, *more, "-o", str(unfinished)])
        unfinished.replace(library)
    return library


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)

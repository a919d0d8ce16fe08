"""Build hook: generates the protobuf stubs and compiles the CPU kernels, for the wheel and the editable
install."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class OctavoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        stubs = generate_stubs(root / "proto")
        build_data["artifacts"] += [f"/{stub.relative_to(self.root)}" for stub in stubs]
        library, reason = compile_kernels(root / "kernels/octavo/kernels/cpu/build.py")
        if library is None:
            self.app.display_warning(f"octavo: no CPU kernels, torch will serve instead: {reason}")
            return
        build_data["artifacts"].append(f"/{library.relative_to(self.root)}")
        build_data["pure_python"] = False
        # Nothing in it depends on the interpreter, all of it on the machine.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def generate_stubs(source_root: Path) -> list[Path]:
    """Runs protoc over every .proto under `source_root`; the stubs' paths. RuntimeError if one does not
    compile."""
    from grpc_tools import protoc

    well_known = resources.files("grpc_tools") / "_proto"
    protos = sorted(source_root.rglob("*.proto"))
    outputs = [f"--{kind}_out={source_root}" for kind in ("python", "pyi", "grpc_python")]
    arguments = ["protoc", f"-I{source_root}", f"-I{well_known}", *outputs, *map(str, protos)]
    if protoc.main(arguments):
        raise RuntimeError(f"protoc failed on the files in {source_root}")
    return sorted(path for path in source_root.rglob("*_pb2*") if path.suffix in (".py", ".pyi"))


def compile_kernels(script: Path) -> tuple[Path | None, str]:
    """The library's path, or None and why there is none: an install without a compiler still succeeds."""
    spec = importlib.util.spec_from_file_location("octavo_kernels_build", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.build(), ""
    except module.NoCompiler as error:
        return None, str(error)
    except subprocess.CalledProcessError as error:
        return None, f"the compiler failed:\n{error.stderr.strip()[-2000:]}"
    except OSError as error:
        return None, f"the compiler could not be run: {error}"

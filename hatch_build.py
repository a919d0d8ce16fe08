"""Build hook: generates the protobuf stubs beside their .proto files, for the wheel and the editable
install."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class OctavoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        stubs = generate_stubs(Path(self.root) / "proto")
        build_data["artifacts"] += [f"/{stub.relative_to(self.root)}" for stub in stubs]


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

"""The C++ decoder stack on a CPU: one call a step, no torch."""

from octavo.engine.runners.native.runner import NativeRunner, refusal

__all__ = ["NativeRunner", "refusal"]

"""In how many bits each matrix is kept, chosen by `quantization` or by the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.kernels.cpu.quantized import SCHEMES, form_of_types, is_computable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.runners.native.layout import Matrix
    from octavo.kernels.cpu.library import Form


def choose_forms(
    files: ModelFiles, config: EngineConfig, matrices: list[Matrix], plain: Form
) -> dict[str, Form]:
    """The form of each matrix by name. plain: of what is not quantised."""
    if config.quantization in SCHEMES:
        of_layers, of_vocabulary = SCHEMES[config.quantization]
        return {m.name: of_layers if m.name.startswith("layers.") else of_vocabulary for m in matrices}
    if config.quantization == "auto" and config.dtype == "auto" and files.quantized:
        types = files.ggml_types()
        return {matrix.name: _as_stored(matrix, types) or plain for matrix in matrices}
    return dict.fromkeys((matrix.name for matrix in matrices), plain)


def _as_stored(matrix: Matrix, types: Mapping[str, int]) -> Form | None:
    """The form that computes from all parts' blocks; None if some part has none, or of an unknown type."""
    parts = [types.get(part.weight) for part in matrix.parts]
    known = [kind for kind in parts if kind is not None and is_computable(kind, matrix.k)]
    return form_of_types(known) if len(known) == len(parts) else None

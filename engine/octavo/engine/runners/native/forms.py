"""In how many bits each matrix is kept, chosen by `quantization` or by the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.models.ggml import GGMLType
from octavo.kernels.cpu.library import Form
from octavo.kernels.cpu.quantized import SCHEMES, form_of_types, is_computable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo.engine.config import EngineConfig
    from octavo.engine.models.files import ModelFiles
    from octavo.engine.models.shard import Shard
    from octavo.engine.runners.native.layout import Matrix


def choose_forms(
    files: ModelFiles, config: EngineConfig, matrices: list[Matrix], plain: Form, shard: Shard
) -> dict[str, Form]:
    """The form of each matrix by name. matrices: the whole ones. plain: of what is not quantised. shard: what
    will be kept of them."""
    if config.quantization in SCHEMES:
        of_layers, of_vocabulary = SCHEMES[config.quantization]
        return {m.name: of_layers if m.name.startswith("layers.") else of_vocabulary for m in matrices}
    if config.quantization == "auto" and config.dtype == "auto" and files.quantized:
        types = files.ggml_types()
        return {matrix.name: _as_stored(matrix, types, shard) or plain for matrix in matrices}
    return dict.fromkeys((matrix.name for matrix in matrices), plain)


def _as_stored(matrix: Matrix, types: Mapping[str, int], shard: Shard) -> Form | None:
    """The form that computes from all parts' blocks; None if some part has none, or of an unknown type."""
    parts = [types.get(part.weight) for part in matrix.parts]
    known = [kind for kind in parts if kind is not None and is_computable(kind, matrix.k)]
    if len(known) != len(parts):
        return None
    form = form_of_types(known)
    if form == Form.GROUP6_CENTRED16 and not all(
        cuts_between_blocks(shard, part.weight, kind) for part, kind in zip(matrix.parts, known, strict=True)
    ):
        # Its integers are not found again from their values, as those with a minimum are.
        return Form.GROUP8_CENTRED
    return form


def cuts_between_blocks(shard: Shard, name: str, ggml_type: int) -> bool:
    """Whether a rank's part of a weight is whole blocks of a type of GGML.

    What is not is rounded anew, by groups of 32, at which all parts begin and end.
    """
    size = GGMLType(ggml_type).block_size
    return all(
        (bound or 0) % size == 0 for part in shard.index(name)[1:] for bound in (part.start, part.stop)
    )

"""Which form a quantised matrix is computed in: chosen by name, or by the types of a GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.kernels.cpu.library import Form, library

if TYPE_CHECKING:
    from collections.abc import Iterable

GGML_SOURCE = 100
"""Added to GGML's number of a type, it is a source type of `octavo_pack`."""

SCHEMES = {"int8": (Form.INT8, Form.INT8), "int4": (Form.GROUP4, Form.GROUP8_CENTRED)}
"""By what `quantization` may be: the form of a layer's matrices, and that of embedding and output, which
suffer more from few bits."""


def is_computable(ggml_type: int, k: int) -> bool:
    """Whether rows of k weights of a type of GGML can be packed as they are."""
    return bool(library().octavo_ggml_row_bytes(ggml_type, k))


def form_of_types(ggml_types: Iterable[int]) -> Form:
    """The form of a matrix that is packed from weights of these types.

    The one that keeps their integers, if there is one for all; else 8 bits, to which they are rounded anew.
    ValueError for a type that cannot be packed.
    """
    forms = {ggml_type: library().octavo_form_of_ggml(ggml_type) for ggml_type in ggml_types}
    for ggml_type, form in forms.items():
        if form < 0:
            raise ValueError(f"GGML's type {ggml_type} is not one that the CPU kernels compute with")
    return Form(next(iter(forms.values()))) if len(set(forms.values())) == 1 else Form.GROUP8_CENTRED

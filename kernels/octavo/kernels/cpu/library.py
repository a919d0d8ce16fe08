"""The compiled library by ctypes: its structures and functions, as src/decoder.h, src/exchange.h and
src/kernels.h have them."""

from __future__ import annotations

import ctypes
from ctypes import (
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint64,
    c_void_p,
)
from enum import IntEnum
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).with_name("liboctavo_cpu.so")


class Form(IntEnum):
    """How a weight matrix is stored, and with it what it is multiplied with."""

    F32 = 0
    BF16 = 1
    INT8 = 2
    GROUP4 = 3
    GROUP4_CENTRED = 4
    GROUP5 = 5
    GROUP5_CENTRED = 6
    GROUP6_CENTRED16 = 7
    GROUP8_CENTRED = 8


POOL_TYPES = {"float32": 0, "bfloat16": 1, "int8": 2}
"""Types of keys and values in the KV pool."""

SOURCE_TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
"""Types of weights that `octavo_pack` reads, by the names of `octavo.engine.models.spec.StoredType`."""

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}


class Linear(Structure):
    _fields_ = (("form", c_int32), ("n", c_int32), ("k", c_int32), ("data", c_void_p), ("bias", c_void_p))


class Product(Structure):
    _fields_ = (
        ("linear", POINTER(Linear)),
        ("a", c_void_p),
        ("a_stride", c_size_t),
        ("rows", c_int),
        ("out", c_void_p),
        ("out_stride", c_size_t),
        ("finish", c_int),
        ("activation", c_int),
        ("out_is_bf16", c_bool),
    )


class Layer(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("qkv", Linear),
        ("o", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("window", c_int32),
    )


class Model(Structure):
    _fields_ = (
        ("hidden_size", c_int32),
        ("intermediate_size", c_int32),
        ("num_layers", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("rotary_dim", c_int32),
        ("vocab_size", c_int32),
        ("activation", c_int32),
        ("pool_type", c_int32),
        ("norm_eps", c_float),
        ("rope_scale", c_float),
        ("frequencies", c_void_p),
        ("final_norm", c_void_p),
        ("embedding", Linear),
        ("output", Linear),
        ("layers", POINTER(Layer)),
    )


class Step(Structure):
    _fields_ = (
        ("num_tokens", c_int32),
        ("num_seqs", c_int32),
        ("max_blocks", c_int32),
        ("num_copies", c_int32),
        ("num_rows", c_int32),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("query_lens", c_void_p),
        ("context_lens", c_void_p),
        ("block_tables", c_void_p),
        ("copies", c_void_p),
        ("rows", c_void_p),
        ("logits", c_void_p),
        ("logits_stride", c_int64),
    )


class Group(Structure):
    _fields_ = (
        ("rank", c_int32),
        ("size", c_int32),
        ("memory", c_void_p),
        ("slot_bytes", c_size_t),
        ("patience", c_double),
        ("first_tokens", POINTER(c_int32)),
    )


MET, GIVEN_UP = -1, -2
"""How a step of several ranks has ended; else it is the number of a rank that was waited for in vain."""

FUNCTIONS = {
    "octavo_isa": (c_char_p, ()),
    "octavo_pool_new": (c_void_p, (c_int, c_void_p)),
    "octavo_pool_free": (None, (c_void_p,)),
    "octavo_linear_bytes": (c_size_t, (c_int, c_int, c_int)),
    "octavo_pack": (
        None,
        (c_void_p, POINTER(Linear), c_int, c_int, c_int, c_void_p, c_int, c_int),
    ),
    "octavo_read_memory": (None, (c_void_p, c_void_p, c_size_t)),
    "octavo_multiply": (c_uint64, (c_void_p, c_int, c_bool)),
    "octavo_form_of_ggml": (c_int, (c_int,)),
    "octavo_ggml_row_bytes": (c_size_t, (c_int, c_int)),
    "octavo_unpack_row": (None, (POINTER(Linear), c_int, c_void_p)),
    "octavo_activation_bytes": (c_size_t, (c_int, c_int)),
    "octavo_to_activations": (None, (c_int, c_void_p, c_int, c_int, c_void_p)),
    "octavo_product": (None, (c_void_p, POINTER(Product))),
    "octavo_decoder_new": (c_void_p, (POINTER(Model), c_void_p, POINTER(Group))),
    "octavo_decoder_free": (None, (c_void_p,)),
    "octavo_block_bytes": (c_size_t, (c_int, c_int, c_int, c_int)),
    "octavo_decoder_allocate": (c_void_p, (c_void_p, c_int64)),
    "octavo_decoder_run": (c_int32, (c_void_p, POINTER(Step))),
}


@cache
def library() -> ctypes.CDLL:
    """The loaded library; its functions release the GIL.

    OSError where it was not compiled or cannot be loaded.
    """
    if not LIBRARY.is_file():
        raise OSError(
            "the CPU kernels were not compiled when Octavo was installed: no C++ compiler was found"
        )
    loaded = ctypes.CDLL(str(LIBRARY))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@cache
def is_available() -> bool:
    """Whether the kernels are compiled and can be loaded here."""
    try:
        library()
    except OSError:
        return False
    return True

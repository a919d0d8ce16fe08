"""What checkpoints call the weights whose canonical names `DecoderSpec.weight_shapes` lists."""

from __future__ import annotations

HUGGING_FACE = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "output": "lm_head",
    "layers": "model.layers",
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}

GGUF = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "output": "output",
    "layers": "blk",
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def checkpoint_name(canonical: str, names: dict[str, str]) -> str:
    """`layers.3.q.bias` → `model.layers.3.self_attn.q_proj.bias`; what is no bias ends in `.weight`."""
    stem = canonical.removesuffix(".bias")
    kind = "weight" if stem == canonical else "bias"
    translated = (part if part.isdigit() else names[part] for part in stem.split("."))
    return f"{'.'.join(translated)}.{kind}"

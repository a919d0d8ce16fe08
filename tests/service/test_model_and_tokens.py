"""`GetModel`, `Tokenize` and `Detokenize`."""

from __future__ import annotations

from octavo.v1 import inference_pb2 as pb
from tests.service.conftest import Serving, World, chat


async def test_get_model_tells_what_a_client_must_know(serving: Serving) -> None:
    world = await serving(served_name="tiny", max_model_len=256, kv_cache_memory="4Mi")
    model = (await world.inference.GetModel(pb.GetModelRequest(model="tiny"))).model
    assert (model.name, model.family, model.dtype, model.device) == ("tiny", "llama", "float32", "cpu")
    assert (model.vocab_size, model.max_model_len, list(model.eos_token_ids)) == (384, 256, [2])
    assert model.has_chat_template
    assert model.block_size == 16
    assert model.num_blocks * model.block_bytes <= 4 * 2**20


async def test_text_survives_the_way_there_and_back(world: World) -> None:
    text = "Zwölf Boxkämpfer 🥊 jagen Viktor quer über den großen Sylter Deich."
    tokens = await world.inference.Tokenize(pb.TokenizeRequest(text=text))
    back = await world.inference.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids))
    assert back.text == text


async def test_a_chat_is_tokenized_through_the_models_template(world: World) -> None:
    tokens = await world.inference.Tokenize(pb.TokenizeRequest(chat=chat("Hello").chat))
    text = await world.inference.Detokenize(
        pb.DetokenizeRequest(token_ids=tokens.token_ids, skip_special_tokens=False)
    )
    assert text.text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


async def test_special_tokens_are_left_out_of_text_unless_asked_for(world: World) -> None:
    tokens = await world.inference.Tokenize(pb.TokenizeRequest(chat=chat("Hello").chat))
    text = await world.inference.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids))
    assert text.text == "user\nHello\nassistant\n"


async def test_nothing_is_a_text_too(world: World) -> None:
    assert not (await world.inference.Tokenize(pb.TokenizeRequest(text=""))).token_ids
    assert (await world.inference.Detokenize(pb.DetokenizeRequest())).text == ""

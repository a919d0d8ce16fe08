"""LLM: lists of prompts in, completions out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.engine import LLM, FinishReason, InvalidRequest, SamplingParams
from octavo.engine import progress as progress_module

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> LLM:
    return LLM(str(tiny_model("qwen3")), dtype="float32", kv_cache_memory="8Mi", threads=1)


def test_completions_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    together = llm.generate(["The quick", [5, 6, 7], "fox jumps over"], GREEDY)
    alone = [llm.generate([prompt], GREEDY)[0] for prompt in ("The quick", [5, 6, 7], "fox jumps over")]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert together[0].text == llm.tokenizer.decode(together[0].token_ids)


def test_one_text_is_a_list_of_one(llm: LLM) -> None:
    [completion] = llm.generate("The quick", GREEDY)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.usage.num_output_tokens == 12


def test_parameters_may_differ_by_prompt(llm: LLM) -> None:
    short, long = llm.generate(
        ["a", "a"], [SamplingParams(max_tokens=1), SamplingParams(max_tokens=5, ignore_eos=True)]
    )
    assert (len(short.token_ids), len(long.token_ids)) == (1, 5)


def test_a_stop_string_cuts_text_and_tokens(llm: LLM) -> None:
    [whole] = llm.generate("The quick", GREEDY)
    stop = whole.text[3:6]
    [cut] = llm.generate(
        "The quick", SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, stop=(stop,))
    )
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason is FinishReason.STOP
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert stop in llm.tokenizer.decode(cut.token_ids)


def test_logprobs_of_each_token_and_the_likeliest(llm: LLM) -> None:
    asked = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=3)
    [completion] = llm.generate("The quick", asked)
    assert [entry.token_id for entry in completion.logprobs] == list(completion.token_ids)
    for entry in completion.logprobs:
        assert len(entry.top) == 3
        assert entry.top[0] == (entry.token_id, entry.logprob), "greedy takes the likeliest"


def test_chat_goes_through_the_models_template(llm: LLM) -> None:
    [answer] = llm.chat([[{"role": "user", "content": "fox"}]], GREEDY)
    assert llm.tokenizer.decode(answer.prompt_token_ids, skip_special_tokens=False) == (
        "<|im_start|>user\nfox<|im_end|>\n<|im_start|>assistant\n"
    )


def test_every_bad_prompt_is_named_before_anything_is_computed(llm: LLM) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.generate([[1], [], [9999]], [GREEDY, GREEDY, SamplingParams(temperature=-1)])
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["prompts[1].prompt", "prompts[2].temperature", "prompts[2].prompt"]


def test_as_many_parameters_as_prompts(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="params"):
        llm.generate(["a", "b"], [GREEDY])


def test_an_interrupted_run_gives_its_blocks_back(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress_module.GenerationProgress, "advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["a", "b"], GREEDY)
    assert llm._engine.load().held_blocks == 0
    assert len(llm.generate(["a", "b"], GREEDY)) == 2


def test_a_bar_is_shown_when_it_takes_long(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm.generate(["a"], GREEDY)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress_module, "DELAY", 0.0)
    llm.generate(["a"], GREEDY)
    assert "1/1" in capsys.readouterr().err

"""What the engine tells, as messages of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine import Delta, FinishReason, TokenLogprobs, Usage
from octavo.v1 import engine_pb2, inference_pb2

if TYPE_CHECKING:
    from octavo.engine.info import EngineLoad, ModelInfo
    from octavo.engine.tokenizer import Tokenizer

FINISH_REASONS = {
    FinishReason.EOS: inference_pb2.FINISH_REASON_EOS,
    FinishReason.STOP: inference_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: inference_pb2.FINISH_REASON_CANCELLED,
    FinishReason.REPETITION: inference_pb2.FINISH_REASON_REPETITION,
}


def delta_message(delta: Delta, tokenizer: Tokenizer) -> inference_pb2.Delta:
    message = inference_pb2.Delta(
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=[_logprobs_message(logprobs, tokenizer) for logprobs in delta.logprobs],
        finish_reason=FINISH_REASONS[delta.finish_reason] if delta.finish_reason else None,
        usage=usage_message(delta.usage),
        index=delta.index,
        reasoning=delta.reasoning,
    )
    # Few deltas have these, and what is not given costs nothing.
    if delta.prompt_logprobs:
        message.prompt_logprobs.extend(_logprobs_message(each, tokenizer) for each in delta.prompt_logprobs)
    if delta.score is not None:
        message.score = delta.score
    return message


def usage_message(usage: Usage) -> inference_pb2.Usage:
    return inference_pb2.Usage(
        prompt_tokens=usage.num_prompt_tokens,
        output_tokens=usage.num_output_tokens,
        cached_prompt_tokens=usage.num_cached_tokens,
    )


def _logprobs_message(logprobs: TokenLogprobs, tokenizer: Tokenizer) -> inference_pb2.TokenLogprobs:
    def message(token_id: int, logprob: float) -> inference_pb2.TokenLogprob:
        text = tokenizer.bytes_of(token_id)
        return inference_pb2.TokenLogprob(token_id=token_id, logprob=logprob, text=text)

    return inference_pb2.TokenLogprobs(
        chosen=message(logprobs.token_id, logprobs.logprob),
        top=[message(token_id, logprob) for token_id, logprob in logprobs.top],
    )


def model_message(model: ModelInfo, name: str, *, has_chat_template: bool) -> inference_pb2.Model:
    return inference_pb2.Model(
        name=name,
        family=model.family,
        dtype=model.dtype,
        device=model.device,
        vocab_size=model.vocab_size,
        max_model_len=model.max_model_len,
        eos_token_ids=model.eos_token_ids,
        has_chat_template=has_chat_template,
        block_size=model.block_size,
        num_blocks=model.num_blocks,
        block_bytes=model.block_bytes,
    )


def load_message(load: EngineLoad) -> engine_pb2.Load:
    return engine_pb2.Load(
        total_blocks=load.total_blocks,
        held_blocks=load.held_blocks,
        cached_blocks=load.cached_blocks,
        running=load.running,
        waiting=load.waiting,
        waiting_tokens=load.waiting_tokens,
        max_num_seqs=load.max_num_seqs,
        prefill_tokens=load.prefill_tokens,
        output_tokens_per_second=load.output_tokens_per_second,
        total_output_tokens=load.total_output_tokens,
        total_preemptions=load.preemptions,
        total_requests=load.total_requests,
        total_finished_requests=load.total_finished_requests,
        total_prompt_tokens=load.total_prompt_tokens,
        total_cached_prompt_tokens=load.total_cached_prompt_tokens,
        draining=load.draining,
    )

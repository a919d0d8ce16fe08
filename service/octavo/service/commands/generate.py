"""`octavo generate`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from octavo.service.commands.connection import connected, sampling_message
from octavo.service.commands.speech import Speech
from octavo.service.figures import Figures
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def generate_text(
    prompt: str | None,
    address: str | None,
    as_json: bool,
    sampling: Mapping[str, object],
    engine: Mapping[str, object],
    file: Path | None,
) -> None:
    params = sampling_message(sampling)
    text = sys.stdin.read() if prompt is None else prompt
    several = params.n > 1

    async def run() -> None:
        async with connected(address, engine, file) as client:
            figures = Figures((await client.model()).block_size)
            outputs: dict[int, pb.Delta] = defaultdict(pb.Delta)
            speech = Speech()
            async for delta in client.generate(pb.Prompt(text=text), params):
                figures.add(delta)
                _join(outputs[delta.index], delta)
                if not as_json and not several:
                    speech.say(delta)
            if as_json:
                print(json.dumps(_report([outputs[i] for i in sorted(outputs)], figures), ensure_ascii=False))
                return
            for index in sorted(outputs) if several else ():
                print(_heading(outputs[index], params.n))
                speech.say(outputs[index])
                speech.end()
            if not several:
                speech.end()
            print(figures, file=sys.stderr)

    asyncio.run(run())


def _join(whole: pb.Delta, delta: pb.Delta) -> None:
    whole.usage.Clear()
    text, reasoning = whole.text + delta.text, whole.reasoning + delta.reasoning
    whole.MergeFrom(delta)
    whole.text, whole.reasoning = text, reasoning


def _heading(output: pb.Delta, count: int) -> str:
    parts = [f"── {output.index + 1} of {count}", _reason(output)]
    if output.HasField("score"):
        parts.append(f"score {output.score:.4f}")
    return " · ".join(parts)


def _report(outputs: list[pb.Delta], figures: Figures) -> dict[str, Any]:
    """Of one output all that it has; of several the same as a list."""
    timing = {
        "time_to_first_token": figures.time_to_first_token,
        "tokens_per_second": figures.tokens_per_second,
        "kv_blocks": figures.kv_blocks,
    }
    told = [
        {
            **MessageToDict(
                output, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            ),
            "finish_reason": _reason(output),
        }
        for output in outputs
    ]
    return {**told[0], "figures": timing} if len(told) == 1 else {"outputs": told, "figures": timing}


def _reason(output: pb.Delta) -> str:
    return pb.FinishReason.Name(output.finish_reason).removeprefix("FINISH_REASON_").lower()

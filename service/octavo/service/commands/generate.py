"""`octavo generate`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from octavo.service.commands.connection import connected, sampling_message
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

    async def run() -> None:
        async with connected(address, engine, file) as client:
            figures = Figures((await client.model()).block_size)
            whole = pb.Delta()
            async for delta in client.generate(pb.Prompt(text=text), params):
                figures.add(delta)
                _join(whole, delta)
                if not as_json:
                    print(delta.text, end="", flush=True)
            if as_json:
                print(json.dumps(_report(whole, figures), ensure_ascii=False))
            else:
                print()
                print(figures, file=sys.stderr)

    asyncio.run(run())


def _join(whole: pb.Delta, delta: pb.Delta) -> None:
    whole.usage.Clear()
    text = whole.text + delta.text
    whole.MergeFrom(delta)
    whole.text = text


def _report(whole: pb.Delta, figures: Figures) -> dict[str, Any]:
    message = MessageToDict(
        whole, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    finish_reason = pb.FinishReason.Name(whole.finish_reason).removeprefix("FINISH_REASON_").lower()
    timing = {
        "time_to_first_token": figures.time_to_first_token,
        "tokens_per_second": figures.tokens_per_second,
        "kv_blocks": figures.kv_blocks,
    }
    return {**message, "finish_reason": finish_reason, "figures": timing}

"""`octavo chat`."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from rich.console import Console

from octavo.engine import ConfigError
from octavo.service.commands.connection import connected, sampling_message
from octavo.service.commands.speech import Speech
from octavo.service.failures import ServerError
from octavo.service.figures import Figures
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from octavo.service.client import Client, Conversation

NOT_FOR_CHATS = ("n", "best_of", "beam_width", "prompt_logprobs", "echo")
"""A turn goes on from one answer, and tells that alone."""
HELP = "/new begins a new chat, /exit ends (so does Ctrl-D); Ctrl-C ends an answer early."


def chat_with_model(
    prompt: str | None,
    address: str | None,
    system: str | None,
    sampling: Mapping[str, object],
    engine: Mapping[str, object],
    file: Path | None,
) -> None:
    params = sampling_message(sampling)
    for field, value in params.ListFields():
        if field.name in NOT_FOR_CHATS and not (field.name == "n" and value == 1):
            flag = "--" + field.name.replace("_", "-")
            raise ConfigError(
                f"flag {flag}: must not be set in a chat, which has one answer a turn (got {value})"
            )
    # The loop runs only while there is something to wait for: reading a line may block without harm.
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            client = runner.run(stack.enter_async_context(connected(address, engine, file)))
            model = runner.run(client.model())
            chat = runner.run(_begin(client, system, params, model.block_size))
            if prompt is None and is_terminal():
                _converse(runner, chat, model)
            else:
                runner.run(chat.answer(sys.stdin.read() if prompt is None else prompt))
        finally:
            runner.run(stack.aclose())


def is_terminal() -> bool:
    return sys.stdin.isatty()


async def _begin(client: Client, system: str | None, params: pb.SamplingParams, block_size: int) -> Chat:
    return Chat(client.conversation(), system, params, block_size)


class Chat:
    """A conversation on a terminal: answers to stdout as they come, figures to stderr."""

    def __init__(
        self, conversation: Conversation, system: str | None, params: pb.SamplingParams, block_size: int
    ) -> None:
        self._conversation = conversation
        self._system = system
        self._params = params
        self._block_size = block_size
        self._is_new = True
        self._speech = Speech()

    async def answer(self, text: str) -> None:
        """Prints the answer to one message. ServerError; the chat can go on after it."""
        messages = [pb.ChatMessage(role="user", content=text)]
        if self._is_new and self._system:
            messages.insert(0, pb.ChatMessage(role="system", content=self._system))
        figures = Figures(self._block_size)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, lambda: loop.create_task(self._conversation.cancel()))
        try:
            async for delta in self._conversation.say(pb.Chat(messages=messages), self._params):
                figures.add(delta)
                self._speech.say(delta)
                if delta.finish_reason not in (0, pb.FINISH_REASON_CANCELLED):
                    self._is_new = False
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        self._speech.end()
        self._speech.note(str(figures))

    async def restart(self) -> None:
        await self._conversation.restart()
        self._is_new = True


def _converse(runner: asyncio.Runner, chat: Chat, model: pb.Model) -> None:
    import readline  # noqa: F401, gives input() a history and keys to edit with

    console = Console(stderr=True)
    context = f"context of {model.max_model_len} tokens"
    console.print(f"[bold]{model.name}[/bold] · {model.dtype} on {model.device} · {context}", highlight=False)
    console.print(HELP, style="dim", highlight=False)
    while True:
        try:
            text = input("\n› ").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        match text:
            case "":
                continue
            case "/exit" | "/quit":
                return
            case "/new":
                runner.run(chat.restart())
            case _ if text.startswith("/"):
                console.print(HELP, style="dim", highlight=False)
            case _:
                try:
                    runner.run(chat.answer(text))
                except ServerError as error:
                    console.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)

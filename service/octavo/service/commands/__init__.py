"""What the commands do. Imported when one runs, so that `octavo --help` needs neither gRPC nor asyncio."""

from __future__ import annotations

from octavo.service.commands.chat import chat_with_model
from octavo.service.commands.gateway import serve_gateway
from octavo.service.commands.generate import generate_text
from octavo.service.commands.serve import serve_model
from octavo.service.commands.top import show_top

__all__ = ["chat_with_model", "generate_text", "serve_gateway", "serve_model", "show_top"]

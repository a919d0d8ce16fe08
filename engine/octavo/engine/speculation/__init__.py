"""Speculative decoding: tokens are guessed cheaply, and several verified in one step of the model."""

from octavo.engine.speculation.build import build_speculator

__all__ = ["build_speculator"]

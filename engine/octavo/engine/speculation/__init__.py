"""Speculative decoding: tokens are guessed cheaply, and several verified in one step of the model."""

from octavo.engine.speculation.build import build_speculator
from octavo.engine.speculation.speculator import Speculator

__all__ = ["Speculator", "build_speculator"]

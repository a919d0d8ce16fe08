"""Structured output: JSON of a schema, regular expressions, choices, context-free grammars.

A `GrammarCompiler` makes a `Grammar` of what a request asks for, once. Each output follows it with a
`Matcher` of its own. A `MaskFiller` turns the matchers of a step into masks of allowed tokens, beside the
forward pass. docs/structured-output.md has the notation and the figures.
"""

from __future__ import annotations

from octavo.engine.structured.compiler import GrammarCompiler
from octavo.engine.structured.filler import MaskFiller
from octavo.engine.structured.grammar import Grammar, Matcher

__all__ = ["Grammar", "GrammarCompiler", "MaskFiller", "Matcher"]

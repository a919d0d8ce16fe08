"""The op table and its rooms: `reference` (torch, the oracle); native ones follow beside it."""

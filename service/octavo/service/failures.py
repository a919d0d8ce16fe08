"""What a server answers that is no result, for those who talk to one. Costs nothing to import."""

from __future__ import annotations


class ServerError(Exception):
    """An answer other than OK, in words: the code, and every bad field with its rule."""

    def __init__(self, code: str, message: str, violations: tuple[tuple[str, str], ...] = ()) -> None:
        fields = "; ".join(f"{field}: {description}" for field, description in violations)
        super().__init__(f"{code}: {fields or message}")
        self.code = code
        self.violations = violations

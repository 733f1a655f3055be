"""The one error that the units raise."""

from __future__ import annotations


class UnitError(ValueError):
    """A malformed descriptor, an illegal shape or an operand that the unit cannot accept.

    `message` says what is wrong with the values involved; `remedy` says what to do about it. The engine adds where
    (kernel, line,
    CTA, warp).
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy

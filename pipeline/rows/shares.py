"""Upper bounds on a number of rows: a count, or an exact share of them.

A share is a fraction and never a float: 29 % of 100 is 29, and 0.29 * 100 is 28.999...
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Self

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most rows that are allowed: `count`, or `share` of all rows if that is given."""

    count: int = 0
    share: Fraction | None = None

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read `"29%"` or `29`. Raises ValueError that says what is allowed."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(count=value)
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        share = Fraction(match[1]) / 100 if match else None
        if share is None or share > 1:
            raise ValueError('must be a share such as "10%", or a whole number from 0 on')
        return cls(share=share)

    def of(self, rows: int) -> int:
        """Return how many of `rows` rows are allowed, rounded down."""
        return (
            self.count
            if self.share is None
            else rows * self.share.numerator // self.share.denominator
        )

    def __str__(self) -> str:
        """Return it as the configuration writes it."""
        return f"{self.count:,}" if self.share is None else f"{float(self.share * 100):g}%"

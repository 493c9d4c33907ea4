"""A picture of growth: panels with logarithmic axes, as self-contained SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

Points = Sequence[tuple[float, float]]  # x and y, above 0

# Colours that people who see fewer of them tell apart, and a mark of its own for each.
_LOOKS: Final = (("#0b5f8a", "circle"), ("#b3470d", "square"))
_WIDTH, _HEIGHT = 460, 340  # of a panel
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 64, 90, 46  # its margins
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#222}.title{font-size:16px;font-weight:600}"
    ".grid{stroke:#d9d9d9}.axis{stroke:#777}.mark{stroke:#fff}"
)


@dataclass(frozen=True)
class Panel:
    """One picture: a name for its y axis, and a line for each name."""

    title: str
    lines: Mapping[str, Points]


def log_log(title: str, panels: Sequence[Panel]) -> str:
    """Draw the panels beside each other, x and y by powers of ten."""
    width = _WIDTH * len(panels)
    drawn = [_panel(panel, _WIDTH * number) for number, panel in enumerate(panels)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" role="img" aria-labelledby="t">',
            f'<title id="t">{escape(title)}</title><style>{_STYLE}</style>',
            f'<rect width="{width}" height="{_HEIGHT}" fill="#fff"/>',
            f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, left: float) -> str:
    points = [point for line in panel.lines.values() for point in line]
    xs, ys = _Axis([x for x, _ in points]), _Axis([y for _, y in points])
    x0, x1 = left + _LEFT, left + _WIDTH - _RIGHT
    y0, y1 = _HEIGHT - _BOTTOM, _TOP
    parts = [f'<text x="{x0}" y="{y1 - 14}">{escape(panel.title)}</text>']
    for value in xs.ticks:
        x = xs.place(value, x0, x1)
        parts.append(f'<path class="grid" d="M{x:.1f} {y0}V{y1}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y0 + 18}" text-anchor="middle">{_short(value)}</text>')
    for value in ys.ticks:
        y = ys.place(value, y0, y1)
        parts.append(f'<path class="grid" d="M{x0} {y:.1f}H{x1}"/>')
        parts.append(f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{x0} {y1}V{y0}H{x1}"/>')
    parts.append(f'<text x="{(x0 + x1) / 2}" y="{y0 + 36}" text-anchor="middle">rows</text>')
    for (name, line), (colour, mark) in zip(panel.lines.items(), _LOOKS, strict=False):
        places = [(xs.place(x, x0, x1), ys.place(y, y0, y1)) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        marks = zip(places, line, strict=True)
        parts += [
            _mark(mark, colour, place, f"{name}: {x:,.0f} rows, {y:,.4g}")
            for place, (x, y) in marks
        ]
        x, y = places[-1]
        parts.append(
            f'<text x="{x + 9:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{escape(name)}</text>'
        )
    return "\n".join(parts)


def _mark(mark: str, colour: str, place: tuple[float, float], title: str) -> str:
    x, y = place
    shape = (
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}">'
        if mark == "circle"
        else f'<rect class="mark" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}">'
    )
    return f"{shape}<title>{escape(title)}</title></{shape[1:].split(maxsplit=1)[0]}>"


class _Axis:
    """From the power of ten at or below the least value to that at or above the most."""

    def __init__(self, values: Sequence[float]) -> None:
        self._low = math.floor(math.log10(min(values)) + 1e-9)
        self._high = max(math.ceil(math.log10(max(values)) - 1e-9), self._low + 1)
        self.ticks = [10.0**power for power in range(self._low, self._high + 1)]

    def place(self, value: float, first: float, last: float) -> float:
        """Return the position of a value between the two ends."""
        return first + (last - first) * (math.log10(value) - self._low) / (self._high - self._low)


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"

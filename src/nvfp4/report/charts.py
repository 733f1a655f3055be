"""Charts as SVG text: a roofline, and bars of a ladder. Colours are names of CSS variables, so that a page has its own.

Coordinates are pixels; numbers are rounded to tenths, so that the same records give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LIGHT = {
    "paper": "#ffffff", "ink": "#1c2430", "dim": "#5b6675", "line": "#d8dee6", "ours": "#1a66d6", "peer": "#c2410c",
    "roof": "#1c2430", "good": "#15803d", "bad": "#b91c1c", "bar": "#b9c9e4",
}  # fmt: skip
DARK = {
    "paper": "#12161c", "ink": "#e7ebf0", "dim": "#9aa6b5", "line": "#2c3541", "ours": "#6ea8ff", "peer": "#fb923c",
    "roof": "#e7ebf0", "good": "#4ade80", "bad": "#f87171", "bar": "#33486b",
}  # fmt: skip
"""The colours of both themes, by what they are for."""


def variables(colours: dict[str, str]) -> str:
    """CSS declarations of a theme."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def standalone(svg: str) -> str:
    """A chart as a file of its own, light or dark as the reader's page."""
    themes = f"svg{{{variables(LIGHT)}}}@media(prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}"
    head, _, rest = svg.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{themes}</style>{rest}\n'


_LETTER = 6.8
"""About the width of a letter of 12 pixels."""


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "dim", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} style="fill:var(--{colour})">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, *, colour: str = "line", width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke-width="{width}"{dashed} style="stroke:var(--{colour})"/>'


def _open(width: int, height: int, label: str) -> str:
    font = "font-family:system-ui,-apple-system,'Segoe UI',sans-serif"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}" style="{font}">'


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    parts = (1.0, 2.0, 5.0) if len(powers) <= 4 else (1.0,)
    return [part * 10.0**power for power in powers for part in parts if low <= part * 10.0**power <= high]


def _number(value: float) -> str:
    return f"{value:g}" if value < 1e4 else f"{value:,.0f}"


@dataclass(frozen=True)
class Point:
    """A point of a roofline: FLOPs per byte, TFLOP/s, what it is, whose it is (``"ours"`` or ``"peer"``), its mark."""

    x: float
    y: float
    title: str
    colour: str
    mark: str


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    style = f'style="fill:var(--{colour});stroke:var(--paper)" stroke-width="1"'
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {style}/>',
        "square": f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {style}/>',
        "diamond": f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z" {style}/>',
        "triangle": f'<path d="M{x:.1f} {y - 6:.1f}l6 10h-12z" {style}/>',
        "wedge": f'<path d="M{x:.1f} {y + 6:.1f}l6 -10h-12z" {style}/>',
    }
    return shapes[kind]


def roofline(points: Sequence[Point], bandwidth: float, rate: float, label: str) -> str:
    """TFLOP/s over FLOPs per byte, both logarithmic, under the roofs of a device.

    Args:
        points: What was reached; a legend names the marks of operations (`Point.title` begins with the operation).
        bandwidth: TB/s of the memory.
        rate: TFLOP/s of the matrix units.
        label: What it shows, for those who cannot see it.
    """
    width, height, left, right, top, bottom = 1080, 440, 62, 18, 18, 46
    ridge = rate / bandwidth
    low_x, high_x = min(min(p.x for p in points) / 1.6, ridge / 4), max(max(p.x for p in points) * 1.6, ridge * 3)
    low_y, high_y = min(p.y for p in points) / 1.8, rate * 1.7

    def at_x(value: float) -> float:
        return left + (width - left - right) * math.log(value / low_x) / math.log(high_x / low_x)

    def at_y(value: float) -> float:
        return height - bottom - (height - top - bottom) * math.log(value / low_y) / math.log(high_y / low_y)

    parts = [_open(width, height, label)]
    for value in _decades(low_x, high_x):
        parts += [_line(at_x(value), top, at_x(value), height - bottom),
                  _text(at_x(value), height - bottom + 17, _number(value), anchor="middle")]  # fmt: skip
    for value in _decades(low_y, high_y):
        parts += [_line(left, at_y(value), width - right, at_y(value)),
                  _text(left - 8, at_y(value) + 4, _number(value), anchor="end")]  # fmt: skip
    start = max(low_x, low_y / bandwidth)
    parts.append(_line(at_x(start), at_y(start * bandwidth), at_x(ridge), at_y(rate), colour="roof", width=2))
    parts.append(_line(at_x(ridge), at_y(rate), at_x(high_x), at_y(rate), colour="roof", width=2))
    parts.append(_text(at_x(high_x) - 4, at_y(rate) - 8, f"{rate:.0f} TFLOP/s", anchor="end", colour="ink"))
    middle = math.sqrt(start * ridge)
    parts.append(
        _text(at_x(middle) - 8, at_y(middle * bandwidth) - 8, f"{bandwidth:.1f} TB/s", anchor="end", colour="ink")
    )
    for point in points:
        body = _mark(point.mark, at_x(point.x), at_y(point.y), point.colour)
        parts.append(f"<g><title>{escape(point.title)}</title>{body}</g>")
    seen: dict[tuple[str, str], str] = {}
    for point in points:
        seen.setdefault((point.title.partition(" ")[0], point.colour), point.mark)
    for row, ((name, colour), mark) in enumerate(seen.items()):
        y = height - bottom - 16 - 17 * (len(seen) - 1 - row)
        who = "nvfp4" if colour == "ours" else "best peer"
        parts += [_mark(mark, width - right - 152, y - 4, colour), _text(width - right - 140, y, f"{name}, {who}")]
    parts.append(
        _text((left + width - right) / 2, height - 8, "FLOPs for each byte that must be moved", anchor="middle")
    )
    turn = f'transform="rotate(-90 14 {height / 2:.0f})"'
    parts.append(f"<g {turn}>{_text(14, height / 2, 'TFLOP/s', anchor='middle')}</g>")
    return "".join((*parts, "</svg>"))


@dataclass(frozen=True)
class Bar:
    """A bar of a ladder.

    Attributes:
        name: Of the rung.
        title: The step.
        seconds: What was measured.
        final: Whether it is the package's own kernel rather than a rung.
    """

    name: str
    title: str
    seconds: float
    final: bool = False


def ladder(bars: Sequence[Bar], light: float, label: str) -> str:
    """Bars of time on a logarithmic axis, with the speed of light as the line that none may cross.

    Args:
        bars: From naive to final.
        light: Seconds at the speed of light.
        label: What it shows, for those who cannot see it.
    """
    row, left, right, top, bottom, width = 30, 96, 100, 30, 38, 1080
    height = top + row * len(bars) + bottom
    low, high = light / 1.35, max(bar.seconds for bar in bars) * 1.1

    def at(value: float) -> float:
        return left + (width - left - right) * math.log(value / low) / math.log(high / low)

    parts = [_open(width, height, label)]
    for value in _decades(low * 1e6, high * 1e6):
        x = at(value * 1e-6)
        parts += [_line(x, top, x, height - bottom),
                  _text(x, height - bottom + 17, _number(value), anchor="middle")]  # fmt: skip
    for index, bar in enumerate(bars):
        y, end = top + row * index + 4, at(bar.seconds)
        colour = "ours" if bar.final else "bar"
        box = f'x="{left}" y="{y:.1f}" width="{end - left:.1f}" height="{row - 8}" rx="3"'
        parts.append(f'<rect {box} style="fill:var(--{colour})"><title>{escape(bar.title)}</title></rect>')
        parts.append(_text(left - 8, y + 15, bar.name, anchor="end", colour="ink"))
        reached = f"{_time(bar.seconds)}, {light / bar.seconds:.0%}"
        parts.append(_text(end + 7, y + 15, reached, colour="ink"))
        after = end + 7 + _LETTER * (len(reached) + 2)
        if after + _LETTER * len(bar.title) < width:
            parts.append(_text(after, y + 15, bar.title))
        else:
            parts.append(_text(end - 8, y + 15, bar.title, anchor="end", colour="paper" if bar.final else "ink"))
    parts.append(_line(at(light), top - 8, at(light), height - bottom, colour="peer", width=2, dash="5 4"))
    parts.append(_text(at(light), top - 13, f"speed of light, {_time(light)}", anchor="middle", colour="peer"))
    parts.append(_text((left + width - right) / 2, height - 3, "microseconds", anchor="middle"))
    return "".join((*parts, "</svg>"))


def _time(seconds: float) -> str:
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-4 else f"{seconds * 1e6:.0f} us"

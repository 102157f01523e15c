"""Bars and lines as SVG, by hand: no plotting library for four pictures.

In: numbers with names. Out: SVG text on a white ground, in colours that the colour-blind tell apart
(Okabe and Ito 2008).
"""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999")
WIDTH, LEFT, RIGHT, TOP = 760, 190, 90, 46
FONT = "font-family='system-ui, sans-serif'"


def bars(
    title: str,
    unit: str,
    groups: Mapping[str, Mapping[str, float]],
    *,
    marks: Mapping[str, float] | None = None,
    mark_name: str = "",
    digits: int = 0,
) -> str:
    """Horizontal bars, a group of them per trace; `marks` are a line across each group."""
    names = list(next(iter(groups.values())))
    highest = max(
        [v for group in groups.values() for v in group.values()] + [*(marks or {}).values()]
    )
    scale = (WIDTH - LEFT - RIGHT) / (highest or 1.0)
    parts, y = [], float(TOP)
    for group_name, group in groups.items():
        parts.append(_text(12, y + 12, group_name, weight="bold"))
        y += 20
        top = y
        for name, value in group.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(_text(LEFT - 8, y + 11, name, anchor="end"))
            parts.append(_rect(LEFT, y, value * scale, 14, colour))
            parts.append(_text(LEFT + value * scale + 5, y + 11, f"{value:.{digits}f}"))
            y += 18
        if marks and group_name in marks:
            x = LEFT + marks[group_name] * scale
            parts.append(_line([(x, top - 3), (x, y - 1)], "#000000", dash="4 3"))
        y += 12
    if mark_name:
        parts.append(_line([(LEFT, y), (LEFT + 24, y)], "#000000", dash="4 3"))
        parts.append(_text(LEFT + 30, y + 4, mark_name))
        y += 16
    return _svg(title, unit, parts, y + 8)


def lines(
    title: str,
    unit: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_unit: str,
    shaded: tuple[float, float] | None = None,
    dashed: Sequence[str] = (),
    dotted: Sequence[str] = (),
) -> str:
    """Lines over time with a legend to their right; those of `dotted` are dots, of the colour of
    the line that is called as they are up to the last word."""
    left, bottom, right = 60, 340, 180
    points = [point for line in series.values() for point in line]
    x_most, y_most = max(x for x, _ in points), max(y for _, y in points) or 1.0
    x_scale, y_scale = (WIDTH - left - right) / x_most, (bottom - TOP) / y_most
    parts = []
    if shaded:
        begin, end = shaded
        width = (end - begin) * x_scale
        parts.append(_rect(left + begin * x_scale, TOP, width, bottom - TOP, "#eeeeee"))
    for step in range(5):
        value = y_most * step / 4
        y = bottom - value * y_scale
        parts.append(_line([(left, y), (WIDTH - right, y)], "#dddddd"))
        parts.append(_text(left - 6, y + 4, f"{value:.0f}", anchor="end"))
        x = left + x_most * step / 4 * x_scale
        parts.append(_text(x, bottom + 18, f"{x_most * step / 4:.1f}", anchor="middle"))
    parts.append(_text((left + WIDTH - right) / 2, bottom + 36, x_unit, anchor="middle"))
    colours: dict[str, str] = {}
    for i, (name, line) in enumerate(series.items()):
        colour = "#000000" if name in dashed else COLOURS[i % len(COLOURS)]
        colour = colours.setdefault(name.rpartition(" ")[0] if name in dotted else name, colour)
        dash = "4 3" if name in dashed else ""
        placed = [(left + x * x_scale, bottom - y * y_scale) for x, y in line]
        if name in dotted:
            parts += [_dot(x, y, colour) for x, y in placed]
            y = TOP + 14 + 20 * i
            parts += [_dot(WIDTH - right + 21, y, colour)]
            parts.append(_text(WIDTH - right + 38, y + 4, name))
            continue
        parts.append(_line(placed, colour, dash=dash, width=1.8))
        y = TOP + 14 + 20 * i
        parts.append(_line([(WIDTH - right + 10, y), (WIDTH - right + 32, y)], colour, dash=dash))
        parts.append(_text(WIDTH - right + 38, y + 4, name))
    return _svg(title, unit, parts, bottom + 48)


def _svg(title: str, unit: str, parts: Sequence[str], height: float) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' "
        f"role='img' aria-label='{escape(title, quote=True)}'>"
    )
    ground = f"<rect width='{WIDTH}' height='{height:.0f}' fill='#ffffff'/>"
    titles = [_text(12, 20, title, size=15, weight="bold"), _text(12, 36, unit, colour="#555555")]
    return "\n".join([head, ground, *titles, *parts, "</svg>", ""])


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: str = "normal",
    colour: str = "#222222",
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' font-weight='{weight}' "
        f"text-anchor='{anchor}' fill='{colour}'>{escape(text)}</text>"
    )


def _dot(x: float, y: float, colour: str) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>"


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(0.0, width):.1f}' height='{height:.1f}' "
        f"fill='{colour}'/>"
    )


def _line(
    points: Sequence[tuple[float, float]], colour: str, *, dash: str = "", width: float = 1.2
) -> str:
    placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f"<polyline points='{placed}' fill='none' stroke='{colour}' stroke-width='{width}' "
        f"stroke-dasharray='{dash or 'none'}'/>"
    )

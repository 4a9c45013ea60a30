"""Charts as small inline SVG, the same bytes for the same numbers. Colours come from the page's style, by class."""

import math
from collections.abc import Mapping, Sequence

from humpback.report.markup import Html, tag
from humpback.rounding import ceil_div

_W, _H, _LEFT, _BOTTOM, _TOP = 640, 240, 56, 36, 10
_SERIES = 6  # colours
_POINTS = 400  # of a line


def bars(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> Html:
    """Groups of bars, one group a label, one bar a series."""
    top = max((value for values in series.values() for value in values), default=0) or 1
    step = (_W - _LEFT) / max(len(labels), 1)
    width = step * 0.8 / max(len(series), 1)
    marks = [
        tag("rect", tag("title", f"{name}, {labels[place]}: {value:,} {unit}"), class_=f"c{which % _SERIES}",
            x=_n(_LEFT + place * step + step * 0.1 + which * width), y=_n(_y(value, 0, top)), width=_n(width),
            height=_n(_y(0, 0, top) - _y(value, 0, top)))
        for which, (name, values) in enumerate(series.items())
        for place, value in enumerate(values)
    ]  # fmt: skip
    every = max(1, round(len(labels) / 12))
    texts = [_text(_LEFT + (n + 0.5) * step, _H - _BOTTOM + 16, label, "middle") for n, label in enumerate(labels) if n % every == 0]
    return _figure(title, list(series), [_axis(0, top), *marks, *texts])


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_name: str,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> Html:  # fmt: skip
    """Lines through (x, y); of a long one every so many points are drawn. bands: (x, low, high) behind the line of that name."""
    bands = bands or {}
    points = [point for line in series.values() for point in line]
    points += [(x, y) for band in bands.values() for x, *ends in band for y in ends]
    if not points:
        return Html("")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    low = 0.0 if 0 <= low < 0.3 * high else low  # an axis that begins at nought where that costs little
    span = (right - left) or 1
    marks = []
    for which, name in enumerate(series):
        if band := bands.get(name, ()):
            around = [(x, low_) for x, low_, _ in band] + [(x, high_) for x, _, high_ in reversed(band)]
            corners = " ".join(f"{_n(_LEFT + (x - left) / span * (_W - _LEFT - 10))},{_n(_y(y, low, high))}" for x, y in around)
            marks.append(tag("polygon", points=corners, class_=f"c{which % _SERIES}", fill_opacity="0.15"))
    for which, line in enumerate(series.values()):
        every = ceil_div(len(line), _POINTS)
        drawn = [*line[:-1:every], line[-1]] if line else []
        places = [(_n(_LEFT + (x - left) / span * (_W - _LEFT - 10)), _n(_y(y, low, high))) for x, y in drawn]
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        marks.append(tag("path", d=path, class_=f"l{which % _SERIES}"))
        marks += [tag("circle", cx=x, cy=y, r=2.5, class_=f"c{which % _SERIES}") for x, y in places] if len(drawn) <= 12 else []
    texts = [_text(_LEFT, _H - _BOTTOM + 16, f"{left:g}", "start"), _text(_W - 10, _H - _BOTTOM + 16, f"{right:g}", "end")]
    texts.append(_text((_LEFT + _W) / 2, _H - 4, x_name, "middle"))
    return _figure(title, list(series), [_axis(low, high), *marks, *texts])


def grid(title: str, labels: Sequence[str], counts: Sequence[Sequence[int]], x_name: str, y_name: str) -> Html:
    """Counts [row y][column x] as squares, of which a darker one is more; the lowest row is at the bottom."""
    most = max((count for row in counts for count in row), default=0) or 1
    size = (_H - _BOTTOM - _TOP) / max(len(labels), 1)
    marks = [
        tag("rect", tag("title", f"{y_name} {labels[row]}, {x_name} {labels[column]}: {count:,}"), class_="c0",
            x=_n(_LEFT + column * size), y=_n(_H - _BOTTOM - (row + 1) * size), width=_n(size - 1), height=_n(size - 1),
            fill_opacity=_n(0.15 + 0.85 * count / most, 2))
        for row, values in enumerate(counts)
        for column, count in enumerate(values)
        if count
    ]  # fmt: skip
    across = [_text(_LEFT + (n + 0.5) * size, _H - _BOTTOM + 14, label, "middle") for n, label in enumerate(labels)]
    up = [_text(_LEFT - 4, _H - _BOTTOM - (n + 0.3) * size, label, "end") for n, label in enumerate(labels)]
    names = [_text(_LEFT, _H - 4, x_name, "start"), _text(_LEFT + len(labels) * size + 12, _TOP + 12, f"up: {y_name}", "start")]
    return _figure(title, [], [*marks, *across, *up, *names])


def stripes(title: str, rows: Sequence[tuple[str, float]], unit: str) -> Html:
    """Horizontal bars, one below the other, each with its name and number."""
    top = max((value for _, value in rows), default=0) or 1
    marks = []
    for place, (name, value) in enumerate(rows):
        y = 4 + place * 24
        marks.append(tag("rect", class_="c0", x=220, y=y, width=_n((_W - 320) * value / top), height=18))
        marks.append(_text(214, y + 13, name if len(name) < 34 else name[:33] + "…", "end"))
        marks.append(_text(226 + (_W - 320) * value / top, y + 13, f"{value:,}", "start"))
    return _figure(f"{title}, {unit}", [], marks, height=len(rows) * 24 + 8)


def sunburst(title: str, parts: Mapping[str, Sequence[tuple[str, int]]]) -> Html:
    """Two rings: the parts, and round each of them what it has, by number; a part's name stands in its piece where there is room."""
    total = sum(count for inner in parts.values() for _, count in inner)
    marks, start, middle = [], 0.0, _W / 2
    for which, (name, inner) in enumerate(parts.items()):
        share = sum(count for _, count in inner) / total
        marks.append(_piece(middle, 60, 120, start, share, f"c{which % _SERIES}", f"{name}: {share:.1%}", 1))
        if share > 0.04:
            angle = 2 * math.pi * (start + share / 2)
            marks.append(_text(middle + 135 * math.sin(angle) * 1.35, 190 - 135 * math.cos(angle) * 1.25, name, "middle"))
        for row, count in inner:
            marks.append(_piece(middle, 122, 155, start, count / total, f"c{which % _SERIES}", f"{name} {row}: {count:,}", 0.6))
            start += count / total
    return _figure(title, [], marks, height=380)


def _piece(middle: float, near: float, far: float, start: float, share: float, colour: str, told: str, opacity: float) -> Html:
    """A part of a ring, from `start` on, both in turns."""
    ends = [2 * math.pi * start, 2 * math.pi * (start + min(share, 0.9999))]
    (a, b), (c, d) = ([(_n(middle + r * math.sin(end)), _n(190 - r * math.cos(end))) for end in ends] for r in (far, near))
    large = int(share > 0.5)
    path = f"M{' '.join(a)}A{far} {far} 0 {large} 1 {' '.join(b)}L{' '.join(d)}A{near} {near} 0 {large} 0 {' '.join(c)}Z"
    return tag("path", tag("title", told), d=path, class_=f"piece {colour}", fill_opacity=opacity)


def _axis(low: float, high: float) -> Html:
    """Four lines across, with their values."""
    steps = [low + (high - low) * quarter / 4 for quarter in range(5)]
    marks = [tag("line", x1=_LEFT, x2=_W, y1=_n(_y(value, low, high)), y2=_n(_y(value, low, high)), class_="axis") for value in steps]
    return Html("".join([*marks, *(_text(_LEFT - 5, _y(value, low, high) + 4, f"{value:.4g}", "end") for value in steps)]))


def _figure(title: str, names: Sequence[str], marks: Sequence[Html], height: float = _H) -> Html:
    drawing = tag("svg", tag("title", title), marks, viewBox=f"0 0 {_W} {height}", role="img", aria_label=title)
    entries = [tag("li", tag("span", "■", class_=f"t{n % _SERIES}", aria_hidden="true"), f" {name}") for n, name in enumerate(names)]
    legend = tag("ul", entries, class_="legend") if names else None
    return tag("figure", tag("figcaption", title), drawing, legend)


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return tag("text", text, x=_n(x), y=_n(y), text_anchor=anchor)


def _y(value: float, low: float, high: float) -> float:
    return _H - _BOTTOM - (value - low) / ((high - low) or 1) * (_H - _BOTTOM - _TOP)


def _n(value: float, digits: int = 1) -> str:
    """A coordinate, short and always the same."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") or "0"

"""Formulas of a page as text: TeX between dollar signs where the page has it, otherwise MathML written out on one line.

Works on the parsed page before it is read, by the conventions of the programs that write formulas (MathJax, KaTeX, MediaWiki and others).
"""

import re
import unicodedata
from urllib.parse import parse_qsl, unquote

from selectolax.lexbor import LexborHTMLParser, LexborNode

from humpback.corpus.boilerplate import words

# A page has a formula when one of these is in its bytes; most have none of the first, and then none of the others.
_HINTS = (b"math", b"katex", b"data-")  # what MathJax draws has elements or classes of "math"
_SIGNS = (
    b"<math", b"math/tex", b"mwe-math", b"data-math", b"mjx-container", b"MathJax", b"katex", b"data-tex", b"data-latex", b"data-expr",
    b"data-equation", b"data-formula",
)  # fmt: skip
_IMAGE = re.compile(rb"<img\s[^>]*>")
_IMAGE_SIGN = re.compile(
    rb"class=[\"']?[^\"'>]*\b(?:tex|latex|math|equation|ql-img)|\\[A-Za-z]|%5C|latex|m(?:ath|ime)tex|chl=|mwe-math", re.IGNORECASE
)
# What a program puts around a formula in all its forms; the outermost first.
_WRAPPERS = (
    ".mwe-math-element, .katex-display, .katex, .katex-mathml, mjx-container, .MathJax_Display, .MathJax, .MathJax_SVG, .MathJax_CHTML"
)
_TEX = 'annotation[encoding="application/x-tex"], annotation[encoding="TeX"], annotation[encoding="LaTeX"]'
_SCRIPT = 'script[type^="math/tex"]'
_PREVIEWS = ".MathJax_Preview, .MathJax, .MathJax_Display, .MathJax_SVG, .MathJax_CHTML, .MathJax_SVG_Display, .MJXc-display, mjx-container"
_ATTRIBUTES = ("data-math", "data-tex", "data-latex", "data-katex", "data-expr", "data-equation", "data-formula")
_IMAGE_CLASS = re.compile(r"\b(?:tex|latex|math|equation|mwe-math-fallback\S*|ql-img\S*)\b", re.IGNORECASE)
_IMAGE_SOURCE = re.compile(r"latex|mathtex|mimetex|/tex/|cht=tx|/math/", re.IGNORECASE)
_IMAGE_SIZE = re.compile(r"^(?:\s*\\(?:dpi|bg|fg|inline|large|small|huge|normalsize)\b(?:\{\w+\}|_\w+)?\s*)+", re.IGNORECASE)
_SOURCES = ("src", "data-src", "data-lazy-src", "data-original")
_IMAGE_FIELDS = words("tex latex math chl eq formula from text f expr equation")
_IN_PATH = re.compile(r"\\[A-Za-z]{2}|[\^{=].*[\^{=]")  # TeX that is a part of the path
_COMMAND = re.compile(
    r"\\[A-Za-z]+\{|[_^]\{|\\(?:frac|sqrt|sum|int|alpha|beta|lambda|math\w*|text|begin|left|cdot|times|leq?|geq?|exp|log|pm|neq?)\b"
)
_LOOKS_LIKE_TEX = re.compile(r"[\\^_=+<>{}]|^\s*\w\s*$|^[\d\s.,()/|*-]+$")
_STYLES = re.compile(r"^\{?\s*\\(?:displaystyle|textstyle)\b\s*(.*?)\s*\}?$", re.DOTALL)
_MAX_DEPTH = 40  # of elements in a formula; deeper ones are written as they stand
_MAX_AROUND = 100
_SUPERSCRIPTS = str.maketrans("0123456789+-−–=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼⁽⁾ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-−–=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌₍₎")
_SPACED = frozenset("=≠<>≤≥≈≡∼≃≅∝∈∉⊂⊆∪∩→←↔⇒⇔↦×·÷±∓∧∨")
_INVISIBLE_SIGNS = dict.fromkeys((0x2061, 0x2062, 0x2063, 0x2064))
_UNWRITTEN = words("annotation annotation-xml defs title surd")
_COMPOSED = words("msup msub msubsup mover munder munderover mfrac msqrt mroot mtable mtr mlabeledtr semantics")


def write_out(parser: LexborHTMLParser) -> None:
    """Puts the text of each formula in its place."""
    raw = parser.raw_html or b""
    if any(map(raw.__contains__, _HINTS)) and any(map(raw.__contains__, _SIGNS)):
        _write_marked(parser)
    if b"<img" in raw and _IMAGE_SIGN.search(b"".join(_IMAGE.findall(raw))):
        for node in parser.css("img"):
            if text := _of_image(node):
                node.replace_with(text)


def _write_marked(parser: LexborHTMLParser) -> None:
    """The formulas that are marked as such, unlike pictures."""
    _write_scripts(parser)
    for selector in (_WRAPPERS, "math"):
        for node in parser.css(selector):
            if _is_in_page(node) and (text := _tex(node) or _drawn(node)):
                node.replace_with(text)
    for name in _ATTRIBUTES:
        for node in parser.css(f"[{name}]"):
            if _is_in_page(node) and _LOOKS_LIKE_TEX.search(tex := node.attributes.get(name) or ""):
                node.replace_with(_quoted(tex))


def superscript(text: str) -> str:
    """A raised text in one line: 10⁻², x^n, e^(a+b)."""
    return _raised(text, _SUPERSCRIPTS, "^")


def subscript(text: str) -> str:
    """A lowered text in one line: H₂, x_i, v_(max)."""
    return _raised(text, _SUBSCRIPTS, "_")


def _raised(text: str, table: dict[int, int], sign: str) -> str:
    if all(ord(char) in table for char in text):
        return text.translate(table)
    return sign + (text if len(text) == 1 else f"({text})")


def _write_scripts(parser: LexborHTMLParser) -> None:
    """The sources that MathJax reads; what it made of them stands beside them, and goes."""
    scripts = parser.css(_SCRIPT)
    if not scripts:
        return
    for node in parser.css(_PREVIEWS):
        if _is_in_page(node):
            node.replace_with("")  # not freed, as one in it may be looked at later
    for node in scripts:
        if _is_in_page(node) and (tex := node.text(deep=True).strip()):
            node.replace_with(_quoted(re.sub(r"^%\s*<!\[CDATA\[|%?\s*\]\]>$|^<!\[CDATA\[", "", tex)))


def _is_in_page(node: LexborNode) -> bool:
    """Whether it is still there, and not in what was replaced, as far as the elements around a formula go."""
    around: LexborNode | None = node
    for _ in range(_MAX_AROUND):
        if around is None or around.tag in ("body", "html"):
            break
        around = around.parent
    return around is not None


def _tex(node: LexborNode) -> str:
    """The TeX that a page has for a formula, "" if none."""
    if (annotation := node.css_first(_TEX)) is not None:
        return _quoted(annotation.text(deep=True))
    for found in (node, *node.css("[alttext], [data-tex], [data-latex], img[alt]")):
        for name in ("alttext", *_ATTRIBUTES, "alt"):
            if (tex := (found.attributes.get(name) or "").strip()) and (name != "alttext" or tex != "upright"):
                return _quoted(tex)
    return ""


def _drawn(node: LexborNode) -> str:
    """A formula of which there is no TeX, from its MathML or from what MathJax drew."""
    math = node if node.tag == "math" else node.css_first("math")
    if math is None:
        math = node.css_first("mjx-math") or node.css_first('[data-mml-node="math"]')
    return _written(math, 0).strip() if math is not None else ""


def _quoted(tex: str) -> str:
    tex = " ".join(tex.split()).strip()
    while tex.startswith("$") and tex.endswith("$") and len(tex) > 2:
        tex = tex[1:-1].strip()
    if tex[:2] in ("\\(", "\\[") and tex[-2:] in ("\\)", "\\]"):
        tex = tex[2:-2].strip()
    if (styled := _STYLES.match(tex)) and styled[1].count("{") == styled[1].count("}"):
        tex = styled[1]
    return f"${tex}$" if tex else ""


def _of_image(node: LexborNode) -> str:
    """The TeX of a picture of a formula: what its text or its address says."""
    attributes = node.attributes
    sources = [source for name in _SOURCES if (source := attributes.get(name))]  # a picture that comes late has several
    named = any(map(_IMAGE_SOURCE.search, [*sources, ""])) or bool(_IMAGE_CLASS.search(attributes.get("class") or ""))
    for tex in ((attributes.get("alt") or "").strip(), (attributes.get("title") or "").strip()):
        if tex and (_COMMAND.search(tex) or (named and _LOOKS_LIKE_TEX.search(tex))):
            return _quoted(tex)
    asked = next(filter(None, (_asked_of(source, named) for source in sources)), "")
    return _quoted(_IMAGE_SIZE.sub("", asked))


def _asked_of(source: str, named: bool) -> str:
    """The TeX in the address of a program that draws formulas."""
    path, _, query = source.partition("?")
    for name, value in parse_qsl(query):
        if name in _IMAGE_FIELDS and (_COMMAND.search(value) or (named and _LOOKS_LIKE_TEX.search(value))):
            return value
    asked = unquote(query.replace("+", " "))
    if _COMMAND.search(asked) or (named and asked and not re.match(r"[a-z]\w+=", query)):
        return asked
    for part in reversed(path.split("/")):
        if "%" in part and _IN_PATH.search(drawn := unquote(part)):
            return drawn.removesuffix(".svg").removesuffix(".png")
    return ""


def _name(node: LexborNode) -> str:
    """The name that an element has in MathML, or stands for in what MathJax drew."""
    if drawn := node.attributes.get("data-mml-node"):
        return drawn
    name = (node.tag or "").removeprefix("mjx-")
    return {"sqrt": "msqrt", "frac": "mfrac", "mtable": "mtable"}.get(name, name)


def _written(node: LexborNode, depth: int) -> str:
    """A MathML element on one line."""
    name = _name(node)
    if depth > _MAX_DEPTH:
        return node.text(deep=True).strip()
    if drawn := _glyph(node):
        return drawn
    if node.tag in ("mjx-munderover", "mjx-munder", "mjx-mover") and (base := node.css_first("mjx-base")) is not None:
        found = [node.css_first(f"mjx-{place}") for place in ("under", "over")]
        under, over = ("" if part is None else _written(part, depth + 1).strip() for part in found)
        return _composed("munderover", [_written(base, depth + 1).strip(), under, over])
    children = [child for child in node.iter(include_text=False) if _name(child) not in _UNWRITTEN]
    if not children:
        text = " ".join(node.text(deep=True).split()).translate(_INVISIBLE_SIGNS)
        return f" {text} " if name == "mo" and text in _SPACED else text
    parts = [_written(child, depth + 1) for child in children]
    if name in ("mi", "mn", "mtext", "mo"):
        text = "".join(parts)
        return f" {text} " if name == "mo" and text in _SPACED else text
    if name == "msubsup" and len(parts) == 2 and children[1].tag == "mjx-script":
        high, *_, low = [child for child in children[1].iter(include_text=False) if child.tag != "mjx-spacer"]
        parts[1:] = [_written(low, depth + 1), _written(high, depth + 1)]
    if name not in _COMPOSED:
        return "".join(parts)
    parts = [part.strip() for part in parts]
    if name == "mfrac" and (node.attributes.get("linethickness") or "").startswith("0"):
        return f"\\binom{{{'}{'.join(parts)}}}"
    return _composed(name, parts)


def _composed(name: str, parts: list[str]) -> str:
    """An element of several parts."""
    if name == "semantics":
        return parts[0]
    if name == "msqrt":
        return f"√({''.join(parts)})"
    if name == "mtable":
        return "; ".join(parts)
    if name in ("mtr", "mlabeledtr"):
        return ", ".join(parts)
    if len(parts) < 2:
        return "".join(parts)
    first, second, *rest = parts
    if name == "mfrac":
        return f"{_bracketed(first)}/{_bracketed(second)}"
    if name == "mroot":
        return f"{superscript(second)}√({first})"
    if name in ("msup", "mover"):
        return first + superscript(second) if second else first
    low = first + subscript(second) if second else first
    return low + (superscript(rest[0]) if rest and rest[0] else "")


def _bracketed(text: str) -> str:
    return text if re.fullmatch(r"[\w.√²³]*", text) else f"({text})"


def _glyph(node: LexborNode) -> str:
    """A character that MathJax draws: by the number in its class, or that in its data."""
    code = node.attributes.get("data-c") or ""
    if not code and node.tag == "mjx-c":
        found = re.search(r"\bmjx-c([0-9A-F]{2,5})\b", node.attributes.get("class") or "")
        code = found[1] if found else ""
    try:
        return unicodedata.normalize("NFKC", chr(int(code, 16))) if code else ""
    except (ValueError, OverflowError):
        return ""

"""Formulas in all the forms that programs write them in, and the text they become."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.text import Block, to_items

MATH = "<mrow><mi>Q</mi><mo>=</mo><mi>m</mi></mrow>"
ANNOTATED = f'<math><semantics>{MATH}<annotation encoding="application/x-tex">{{}}</annotation></semantics></math>'
GLYPHS = "<mjx-mi><mjx-c class='mjx-c1D444 TEX-I'></mjx-c></mjx-mi><mjx-mo><mjx-c class='mjx-c3D'></mjx-c></mjx-mo>"
FORMS = [
    ("TeX beside MathML", ANNOTATED.format("Q = m"), "$Q = m$"),
    ("MediaWiki", "<span class=mwe-math-element><span style='display: none'>" + ANNOTATED.format(r"{\displaystyle Q=\beta m}") + "</span>"
     r"<img class=mwe-math-fallback-image-inline aria-hidden=true alt='{\displaystyle Q=\beta m}'></span>", r"$Q=\beta m$"),
    ("MediaWiki's picture alone", "<img class=mwe-math-fallback-image-inline alt='Q'>", "$Q$"),
    ("KaTeX", f"<span class=katex><span>{ANNOTATED.format('a+b')}</span><span aria-hidden=true>a+b</span></span>", "$a+b$"),
    ("the text of MathML", f"<math alttext='Q=m'>{MATH}</math>", "$Q=m$"),
    ("a picture of TeX", r"<img class=tex alt='Q = mc\Delta T'>", r"$Q = mc\Delta T$"),
    ("a picture whose text is TeX", r"<img src=e.svg alt='\frac{a}{b}'>", r"$\frac{a}{b}$"),
    ("a picture drawn on demand", r"<img src='https://tex.example.org/svg.image?\frac{a}{b}'>", r"$\frac{a}{b}$"),
    ("one with a field", "<img src='https://example.org/latex.php?latex=%5Cfrac%7Ba%7D%7Bb%7D&bg=fff'>", r"$\frac{a}{b}$"),
    ("one with the formula in its path", "<img src='https://example.org/draw/%5Csqrt%7Bx%7D.svg'>", r"$\sqrt{x}$"),
    ("MathJax's source", "<span class=MathJax_Preview>?</span><script type='math/tex; mode=display'>a < b</script>", "$a < b$"),
    ("what MathJax made of it",
     "<span class=MathJax_Display><span class=MathJax><math><mi>a</mi></math></span></span><script type='math/tex'>a</script>", "$a$"),
    ("an attribute", r"<span data-math='x^2'>x2</span>", "$x^2$"),
    ("MathML", f"<math>{MATH}</math>", "Q = m"),
    ("a fraction", "<math><mfrac><mn>1</mn><mn>250</mn></mfrac></math>", "1/250"),
    ("a long fraction", "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac></math>", "(a+b)/2"),
    ("a power", "<math><msup><mn>10</mn><mrow><mo>−</mo><mn>2</mn></mrow></msup></math>", "10⁻²"),
    ("an index and a power", "<math><msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup></math>", "x_i²"),
    ("roots", "<math><msqrt><mi>a</mi><mo>+</mo><mi>b</mi></msqrt><mroot><mi>c</mi><mn>3</mn></mroot></math>", "√(a+b)³√(c)"),
    ("a binomial", "<math><mfrac linethickness='0'><mi>n</mi><mi>k</mi></mfrac></math>", r"\binom{n}{k}"),
    ("glyphs", f"<mjx-container><mjx-math>{GLYPHS}<mjx-mn><mjx-c class='mjx-c32'></mjx-c></mjx-mn></mjx-math></mjx-container>", "Q = 2"),
    ("drawn glyphs",
     "<mjx-container><svg><g data-mml-node=math><g data-mml-node=mi><use data-c='1D444'></use></g></g></svg></mjx-container>", "Q"),
]  # fmt: skip


def text_of(html: str) -> str:
    return "\n".join(item.text for item in to_items(LexborHTMLParser(html, scripting=True)) if isinstance(item, Block))


@pytest.mark.parametrize("html, text", [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_forms(html: str, text: str) -> None:
    assert text_of(f"<p>The heat is {html}, in joules.</p>") == f"The heat is {text}, in joules."


@pytest.mark.parametrize("html", [
    "<img class=logo alt='Loaf &amp; Co'>", "<img src='/math/loaf.png' alt='A loaf of bread'>", "<img src='a.png?width=30&x=1'>",
    "<span data-expr='loaf'></span>",
])  # fmt: skip
def test_other_pictures_say_nothing(html: str) -> None:
    assert text_of(f"<p class=latex>Bread {html} is good.</p>") == "Bread is good."


def test_a_formula_in_a_table() -> None:
    html = "<table><tr><td>a<td><math alttext='1.3\\times 10^{-2}'><mn>1</mn></math><tr><td>b<td>c</table>"
    assert text_of(html) == "| a | $1.3\\times 10^{-2}$ |\n| b | c |"

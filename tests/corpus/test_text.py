"""Every construct of a page and the text it becomes, as a literal table."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from humpback.corpus.segments import build_trees
from humpback.corpus.text import Block, Edge, Header, to_items

TABLE = [
    ("paragraphs", "<p>One  two\n three.</p><p>Four.</p>", "One two three.\n\nFour."),
    ("text without a paragraph", "Bare words<div>and boxed</div>again", "Bare words\n\nand boxed\n\nagain"),
    ("inline elements join", "<p>a<b>b</b> <i>c</i><span>d</span></p>", "ab cd"),
    ("links keep their text", '<p>See <a href="/x">the manual</a> first.</p>', "See the manual first."),
    ("a bar of links goes", '<div><a href="/a">Prev</a> | <a href="/b">Next</a></div><p>Text.</p>', "Text."),
    ("a sentence with links stays", '<p>Use <a href="/a">this</a> or <a href="/b">that</a>.</p>', "Use this or that."),
    ("header anchors go", '<p>Text<a href="#t">¶</a></p>', "Text"),
    ("entities", "<p>1 &lt; 2 &amp;&nbsp;caf&eacute; &#8212; &mdash;</p>", "1 < 2 & café — —"),
    ("soft hyphens and zero width", "<p>hy&shy;phen zero&#8203;width</p>", "hyphen zerowidth"),
    ("what parts letters in some scripts", "<p>می&zwnj;روم zero&zwnj;width</p>", "می\u200cروم zerowidth"),
    ("line break", "<p>Rose Lane 4<br>Ottersby</p>", "Rose Lane 4\nOttersby"),
    ("two line breaks", "One.<br><br/>Two.<br> <br>Three.<br>&nbsp;<br>Four.", "One.\n\nTwo.\n\nThree.\n\nFour."),
    ("superscripts", "<p>10<sup>3</sup> m<sup>-2</sup> x<sup>n</sup> e<sup>x</sup> 2<sup>a+b</sup></p>", "10³ m⁻² xⁿ e^x 2^(a+b)"),
    ("ordinals", "<p>the 1<sup>st</sup> and 22<sup>nd</sup></p>", "the 1st and 22nd"),
    ("subscripts", "<p>H<sub>2</sub>O, x<sub>i</sub>, v<sub>max</sub></p>", "H₂O, x_i, v_(max)"),
    ("footnote marks go",
     '<p>So<sup><a href="#n1">1</a></sup> it is<a href="#n2">[2]</a>.<a href="#n"><sup>[3]</sup></a></p>', "So it is."),
    ("numbers of citations go",
     "<p>It is so (<a href=/s>1</a>, <a href=/t>12</a>), see <a href=/u>3</a> (in part <a href=/v>4</a>).", "It is so, see 3 (in part 4)."),
    ("quotation marks", "<p><q>Yes</q>, she said.</p>", "“Yes”, she said."),
    ("bulleted list", "<p>Take:</p><ul><li>salt</li><li><p>pepper</p></li></ul><p>Mix.</p>", "Take:\n\n- salt\n- pepper\n\nMix."),
    ("numbered list", "<ol><li>Go<li>Stop</ol>", "1. Go\n2. Stop"),
    ("list that starts at 9", '<ol start="9"><li>a</li><li>b</li><li value="20">c</li></ol>', "9. a\n10. b\n20. c"),
    ("letters and numerals", "<ol type=a><li>x<li>y</ol><ol type=I start=3><li>z<li>w</ol>", "a. x\nb. y\n\nIII. z\nIV. w"),
    ("a list that counts down", "<ol reversed><li>x<ul><li>y</ul><li>z</ol>", "2. x\n   - y\n1. z"),
    ("a list in a list, in no item", "<ul><li>x</li><ul><li>y</li></ul><li>z</li></ul>", "- x\n  - y\n- z"),
    ("a list of tasks", "<ul><li><label><input type=checkbox>x</label></li><li><input type=checkbox> y</li></ul>", "- x\n- y"),
    ("text that is shown when it is searched for", "<div hidden=until-found><p>x</p></div><div hidden><p>y</p></div>", "x"),
    ("links beside headers, said aloud", "<p><a href='#t'>Permalink to “T”</a></p><a href='/p#t'><i>Section titled T</i></a><p>x</p>", "x"),
    ("links in sentences", "<p>Add a <a href='/p#t'>link to the page</a>.</p>", "Add a link to the page."),
    ("nested lists", "<ul><li>a<ol><li>b</li><li>c</li></ol></li><li>d</li></ul>", "- a\n  1. b\n  2. c\n- d"),
    ("paragraphs in an item", "<ol><li><p>a</p><p>b</p></li><li>c</li></ol>", "1. a\n   b\n2. c"),
    ("definition list", "<dl><dt>Hob</dt><dd>A flat top.</dd><dt>Wok</dt><dd>Round.</dd><dd>Deep.</dd></dl>",
     "Hob\n: A flat top.\n\nWok\n: Round.\n: Deep."),
    ("quote", "<blockquote><p>To be<br>or not</p></blockquote><p>he said</p>", "> To be\n> or not\n\nhe said"),
    ("addresses in a quote", "<blockquote>Look. <a href=/s>pic.example.org/aB1</a></blockquote>", "> Look."),
    ("addresses in a sentence", "<blockquote>Get it from <a href=/s>example.org/a</a>.</blockquote>", "> Get it from example.org/a."),
    ("pages of footnotes go", "<p>So it is.<sup><a href=#n>[1]</a></sup><sup>: p. 234</sup></p>", "So it is."),
    ("code", "<p>Run</p><pre>\nif x:\n    y  = 1\n</pre>", "Run\n\n```\nif x:\n    y  = 1\n```"),
    ("code with markup", '<pre><code><span class="k">for</span> i<br>  pass</code><button>Copy</button></pre>', "```\nfor i\n  pass\n```"),
    ("code in an item", "<ul><li>Run<pre>a\n b</pre></li></ul>", "- Run\n  ```\n  a\n   b\n  ```"),
    ("fences in code", "<pre>```\nx\n```</pre>", "````\n```\nx\n```\n````"),
    ("table", "<table><caption>Sizes</caption><tr><th>Name<th>cm<tr><td>A | B<td>1<br>2<tr><td>C</table>",
     "Sizes\n\n| Name | cm |\n| --- | --- |\n| A \\| B | 1 2 |\n| C |  |"),
    ("a caption in the middle", "<table><tr><th>x<th>y<caption>late</caption><tr><td>1<td>2<tr><td>3<td>4</table>",
     "| x | y |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"),
    ("table without a header row", "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>", "| a | b |\n| c | d |"),
    ("colspan", '<table><tr><th colspan="2">x<th>y<tr><td>1<td>2<td>3</table>', "| x |  | y |\n| --- | --- | --- |\n| 1 | 2 | 3 |"),
    ("rowspan", "<table><tr><th>x<th>y<th>z<tr><td rowspan=2>a<td>1<td rowspan=2>b<tr><td>2<tr><td>c<td>3<td>d</table>",
     "| x | y | z |\n| --- | --- | --- |\n| a | 1 | b |\n| a | 2 | b |\n| c | 3 | d |"),
    ("rowspan in a header",
     "<table><thead><tr><th rowspan=2>x<th colspan=2>y<tr><th>1<th>2</thead><tr><td>a<td>b<td>c<tr><td>d<td>e<td>f</table>",
     "| x | y |  |\n| --- | --- | --- |\n|  | 1 | 2 |\n| a | b | c |\n| d | e | f |"),
    ("a header row twice", "<table><tr><th>x<th>y<tr><td>x<td>y<tr><td>a<td>b</table>", "| x | y |\n| --- | --- |\n| a | b |"),
    ("a column of line numbers", "<table><tr><td class=g><pre>1\n2\n</pre><td><pre>a\n b\n</pre></table>", "```\na\n b\n```"),
    ("line numbers in code", "<pre><span>9</span>a\n<span>10</span> b</pre>", "```\na\n b\n```"),
    ("line numbers that nobody can select", "<pre><span style='user-select: none'>x1</span>a\n b</pre>", "```\na\n b\n```"),
    ("numbers that count nothing", "<pre><b>1</b> a\n<b>5</b> b</pre>", "```\n1 a\n5 b\n```"),
    ("a box for a line", "<pre><code><div>a</div><div></div><div> b</div></code></pre>", "```\na\n\n b\n```"),
    ("a block for a line", "<pre><span style='display:block'>a</span><span style='display:block'> b</span></pre>", "```\na\n b\n```"),
    ("numbers in boxes", "<pre><div><i>1</i><div>a</div></div><div><i>2</i><div> b</div></div></pre>", "```\na\n b\n```"),
    ("lines in a box that is no pre", "<div class=fragment><div class=line>a</div><div class=line> b</div></div>", "```\na\n b\n```"),
    ("lines of a poem", "<div class=line-block><div class=line>a</div><div class=line>b</div></div>", "a\n\nb"),
    ("the title of code", "<pre><div class=code-header>python</div><code>a</code></pre>", "```\na\n```"),
    ("table with a nuisance's name", "<table class='related'><tr><th>See</th></tr><tr><td>x</td></tr></table><p>a</p>", "a"),
    ("the variant that is shown", "<p>Press <span><span hidden id=MAC1>Cmd</span><span hidden id=default1>Ctrl</span></span>+A.</p>",
     "Press Ctrl+A."),
    ("table of one column and its title", "<table><tr><th>Name<tr><td>a<tr><td>b</table>", "a\n\nb"),
    ("table of one column", "<table><tr><td>a<tr><td>b</table>", "a\n\nb"),
    ("layout table", "<table><tr><td><ul><li>a</ul><td><p>b</p><tr><td>c<td>d</table>", "- a\n\nb\n\nc\n\nd"),
    ("table of one row", "<table><tr><td>left<td>right</table>", "left\n\nright"),
    ("figure", '<figure><img src="x" alt="no"><figcaption>A boat.</figcaption>On the lake.</figure>', "On the lake."),
    ("pictures and what is below them",
     "<p>a</p><div class='figure-contents'><img src=x><p>A boat.</p></div>"
     "<div class='wp-caption'>x</div><span class=mediaobject>y</span><p class=captions>b</p>", "a\n\nb"),
    ("a sentence about a picture goes with it",
     "<p>Open it. It looks like this:</p><p><img src=x></p><p>So:</p><div class=figure><img></div>"
     "<p>a<p>b:</p><ul><li>c</li></ul><p>d: <img>e", "Open it.\n\na\n\nb:\n\n- c\n\nd: e"),
    ("boxes of links",
     "<p>a</p><div class='admonition seealso'><p>See also</p><p>The <a href=x>lake</a>.</p></div><p class=see-also>b</p>", "a"),
    ("nothing unread",
     "<p>a</p><script>x</script><style>y</style><template><p>t</p></template><noscript><p>n</p></noscript><!-- c --><p>b</p>",
     "a\n\nb"),
    ("signs in names", "<p>a</p><p>b <restored from</p><p <x<y=1 z>c</p>", "a\n\nb\n\nc"),
    ("what looks like a comment in a name", "<p>a</p><p<!-- c>b<p<!-->c</p<!--></p<!--><!-- x --><p>d</p>", "a\n\nbc\n\nd"),
    ("a sign and a raw element's name in a name", "<p>a</p><p<plaintext>b</p><p>c</p>", "a\n\nb\n\nc"),
    ("no navigation", "<nav>x</nav><aside>y</aside><footer>z</footer><div role='navigation'>r</div><p>b</p>", "b"),
    ("no site header", "<header><p>Site</p></header><article><header><p>By A.</p></header><p>b</p></article>", "By A.\n\nb"),
    ("nothing hidden", "<p hidden>a</p><p style='color:red; DISPLAY : none'>b</p><p aria-hidden=true>c</p><p>d</p>", "d"),
    ("no controls", "<form><label>Mail</label><input></form><p>a <button>Go</button></p><select><option>x</select>", "a"),
    ("no cookie banner", "<div id='cookie-bar'>Accept?</div><div class='cookie-recipe'>Bake.</div>", "Bake."),
    ("no share or comment widgets", "<div class='share-buttons'>Tweet</div><div id='comments'>First!</div><p class='postComments area'>"
     "stays out</p><p>a</p>", "stays out\n\na"),
    ("no advertisement", "<div class='ad-banner'>Buy</div><ins class='adsbygoogle'>Buy</ins><p class='admonition'>Mind.</p>", "Mind."),
    ("no copyright line", "<p>a</p><p>Copyright © 2019 A. B. All rights reserved.</p><div>Powered by Boardly</div>"
     "<p>This page last modified on 2020-01-02</p><p>Figure&nbsp;3. A boat</p>", "a"),
    ("sentences with the words of such lines", "<p>Powered by two small batteries, the lamp burns for a week.</p>"
     "<p>Figure 3. is what they called the third notch.</p><p>Last changed is the stone that wears most.</p>"
     "<p>It was made by Otto © in 1931.</p>",
     "Powered by two small batteries, the lamp burns for a week.\n\nFigure 3. is what they called the third notch.\n\n"
     "Last changed is the stone that wears most.\n\nIt was made by Otto © in 1931."),
    ("a wrapper's class is about the page", "<div class='with-sidebar no-comments'><p>a</p></div><div class='sidebar'>b</div>", "a"),
    ("an id that a tool made of a title",
     "<div class='section' id='comments'><p>a</p></div><section id='menu'><p>b</p></section>", "a\n\nb"),
]  # fmt: skip


def read(html: str) -> str:
    items = to_items(LexborHTMLParser(f"<h1>T</h1>{html}", scripting=True))
    (tree,) = build_trees(items)
    assert tree.length == len(tree.text)
    return tree.text


@pytest.mark.parametrize("html, text", [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_constructs(html: str, text: str) -> None:
    assert read(html) == text


HEADERS = [
    ("<h2>A <b>b</b></h2>", [("A b", 2)]),
    ('<h2>1.2. A<a class="headerlink" href="#a">¶</a></h2>', [("1.2. A", 2)]),
    ("<h1><img src=x></h1><h3>B<br>c</h3>", [("", 1), ("B c", 3)]),
    ('<div role="heading" aria-level="4">D</div><p role="heading">E</p>', [("D", 4), ("E", 2)]),
    ('<h2 role="heading" aria-level="99">F</h2>', [("F", 9)]),
    ("<h1><div>A</div><div>text</div></h1>", [("A", 1)]),
    ("<h2>A<p>text</h2><p>more", [("A", 2)]),  # an end tag that came too late
    ("<h2>A<h3>B</h2>text", [("A", 2), ("B", 3)]),
    ("<ul><li><h3>Step</h3>text</li></ul>", [("Step", 3)]),
    ("<hgroup><h1>Loaves</h1><h2>For beginners</h2></hgroup><h2>Rye</h2>", [("Loaves", 1), ("Rye", 2)]),
    ("<h2 hidden>A</h2><h2>B</h2>", [("B", 2)]),
    ("<h3><button aria-expanded=false>Why?</button></h3>", [("Why?", 3)]),
    ("<h3>Why? <button>Copy</button></h3><h3><button>+</button> How?</h3>", [("Why?", 3), ("How?", 3)]),
    ("<button><h3>Why?</h3></button><label><h3>How?</h3></label>", [("Why?", 3), ("How?", 3)]),
    ("<div role=heading aria-level=4><button>Why?</button></div>", [("Why?", 4)]),
    ("<h2>Why?<a href='#w'><span class=sr-only>Link to this section</span></a></h2>", [("Why?", 2)]),
    ("<h2>Why?<a href='https://example.org/p#w'>Permalink to “Why?”</a></h2>", [("Why?", 2)]),
]


@pytest.mark.parametrize("html, headers", HEADERS)
def test_headers(html: str, headers: list[tuple[str, int]]) -> None:
    items = to_items(LexborHTMLParser(html))
    assert [(item.text, item.level) for item in items if isinstance(item, Header)] == headers


def test_an_unclosed_header_does_not_swallow_the_page() -> None:
    items = to_items(LexborHTMLParser("<h2>A<p>first</p><ul><li>x</ul>"))
    assert items == [Header("A", 2), Block("first", False), Block("- x", False)]


def test_edges_are_balanced_on_sloppy_pages() -> None:
    items = to_items(LexborHTMLParser("<article><h1>a<article><p>b</article><main>c<li role=heading>d<dd>e</ul>"))
    depth = 0
    for item in items:
        if isinstance(item, Edge):
            depth += 1 if item.opens else -1
        assert depth >= 0
    assert depth == 0

"""The page's style and its script, which only sorts, filters and searches what is there without it."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1b1b;--soft:#595959;--line:#d0d0d0;--box:#f5f5f5;--link:#0b57a4;
--c0:#0b62a8;--c1:#b3450b;--c2:#1c7a3d;--c3:#7a3fa0;--c4:#8a6100;--c5:#ad1457}
@media(prefers-color-scheme:dark){:root{--bg:#161616;--fg:#ececec;--soft:#b0b0b0;--line:#474747;--box:#232323;--link:#8ab8f0;
--c0:#6fb1f0;--c1:#f0955c;--c2:#69c78a;--c3:#c79be8;--c4:#dcb64e;--c5:#f27fae}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1rem}
a{color:var(--link)}
h1{font-size:1.6rem}h2{font-size:1.2rem;border-top:1px solid var(--line);padding-top:1rem;margin-top:2rem}h3{font-size:1rem}
nav ol{columns:18rem;margin:0}
:focus-visible{outline:3px solid var(--c1);outline-offset:2px}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft)}
th,td{padding:.15rem .7rem .15rem 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child,.left td{text-align:left}
figure{margin:1rem 0;max-width:44rem}figcaption{font-weight:600}
svg{width:100%;height:auto}svg text{font-size:11px;fill:var(--soft)}
.axis{stroke:var(--line);stroke-width:1}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}
.l0{stroke:var(--c0)}.l1{stroke:var(--c1)}.l2{stroke:var(--c2)}.l3{stroke:var(--c3)}.l4{stroke:var(--c4)}.l5{stroke:var(--c5)}
path:not(.piece){fill:none;stroke-width:2}.piece{stroke:var(--bg)}
.t0{color:var(--c0)}.t1{color:var(--c1)}.t2{color:var(--c2)}.t3{color:var(--c3)}.t4{color:var(--c4)}.t5{color:var(--c5)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:1rem;padding:0;margin:0;font-size:.9rem}
.missing{background:var(--box);padding:.5rem .8rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:1rem}.pair>div{min-width:0}
article,details.group{background:var(--box);margin:.6rem 0;padding:.5rem .8rem}
summary{cursor:pointer}
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;border-left:3px solid var(--line);padding-left:.6rem;margin:.3rem 0}
.about{color:var(--soft);overflow-wrap:anywhere;font-size:.9rem}
.tools{display:none;gap:1rem;flex-wrap:wrap;margin:.5rem 0}.tools.on{display:flex}
input,select,button{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--soft);padding:.2rem .4rem}
@media print{:root{--bg:#fff;--fg:#000;--soft:#333}.tools,nav{display:none!important}article,figure,tr{break-inside:avoid}}
"""

SCRIPT = """
"use strict";
(() => {
  const list = document.getElementById("list"), tools = document.getElementById("tools");
  if (!list || !tools) return;
  const items = [...list.children], input = document.getElementById("search");
  const sort = document.getElementById("sort"), filter = document.getElementById("filter"), count = document.getElementById("count");
  const places = new Map(items.map((item, place) => [item, place]));
  const score = item => item.dataset.score === "" ? NaN : Number(item.dataset.score);
  const show = () => {
    const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean), kind = filter.value;
    let shown = 0;
    for (const item of items) {
      const text = words.length ? item.textContent.toLowerCase() : "";
      item.hidden = !words.every(word => text.includes(word)) || !(kind === "all" || item.dataset.kind.split(" ").includes(kind));
      shown += item.hidden ? 0 : 1;
    }
    const way = sort.value === "best" ? -1 : 1;
    const order = (a, b) => {
      if (sort.value === "chance") return places.get(a) - places.get(b);
      const x = score(a), y = score(b);
      return (Number.isNaN(x) - Number.isNaN(y)) || way * (x - y) || places.get(a) - places.get(b);
    };
    list.append(...[...items].sort(order));
    count.textContent = shown + " of " + items.length + " shown";
  };
  for (const control of [input, sort, filter]) control.addEventListener("input", show);
  tools.classList.add("on");
  show();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
})();
"""

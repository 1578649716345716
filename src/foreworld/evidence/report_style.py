"""The look of a page of evidence: system fonts, light and dark, narrow screens, paper."""

from __future__ import annotations

# Figures keep a white ground in dark mode too: their colours have fixed clinical meanings.
STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #55606b; --ground: #ffffff; --card: #f4f6f8;
  --line: #d5dbe1; --link: #0b5cad; --warn: #fff1cc; --warn-ink: #4d3800; --warn-line: #d99a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --soft: #a5b1bd; --ground: #14181c; --card: #1e242a; --line: #39424b; --link: #7db8f5;
    --warn: #3d2f00; --warn-ink: #ffe6a3; --warn-line: #d99a00; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
main { max-width: 66rem; margin: 0 auto; padding: 0 1rem 3rem; }
p, ul { max-width: 46rem; }
.banner { position: sticky; top: 0; z-index: 1; max-width: none; margin: 0; padding: .5rem 1rem; text-align: center;
  font-weight: 600; background: var(--warn); color: var(--warn-ink); border-bottom: 2px solid var(--warn-line); }
h1 { margin: 1.6rem 0 .4rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.6rem 0 .6rem; padding-top: .6rem; font-size: 1.35rem; line-height: 1.25;
  border-top: 1px solid var(--line); scroll-margin-top: 4rem; }
.lead { font-size: 1.12rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; max-width: none; margin: .8rem 0 0; padding: 0;
  list-style: none; }
a { color: var(--link); }
figure { margin: 1.2rem 0; }
figure .scroll { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; }
img { display: block; width: 100%; height: auto; }
figcaption, caption { color: var(--soft); font-size: .92rem; text-align: left; }
figcaption { max-width: 46rem; margin-top: .5rem; }
caption { padding-bottom: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .8rem .4rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; line-height: 1.3; }
th:first-child { text-align: left; white-space: nowrap; }
dl { margin: 1rem 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: .1rem 2rem; }
dl div { display: grid; grid-template-columns: minmax(7rem, 1fr) 2fr; gap: .8rem; padding: .3rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { margin: 1rem 0; padding: .8rem 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; font: .9rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 44rem) {
  h1 { font-size: 1.5rem; } .banner { font-size: .85rem; } figure img { min-width: 44rem; } }
@media print {
  :root { --ink: #000000; --soft: #333333; --ground: #ffffff; --card: #ffffff; --line: #999999; --link: #000000;
    --warn: #ffffff; --warn-ink: #000000; --warn-line: #000000; }
  body { font-size: 10pt; } h1 { margin-top: .8rem; } h2 { margin-top: 1.2rem; }
  .banner { position: static; border: 2px solid #000000; } nav { display: none; } main { max-width: none; padding: 0; }
  .scroll { overflow: visible; } td { white-space: normal; }
  figure img { width: auto; min-width: 0; max-width: 100%; max-height: 15cm; margin: 0 auto; }
  pre { white-space: pre-wrap; } table { font-size: .8rem; }
  figure, table, dl div, pre { break-inside: avoid; } h2 { break-after: avoid; } }
"""

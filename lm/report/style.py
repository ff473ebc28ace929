"""The style sheet of report.html: one accent colour, light and dark, readable on paper."""

STYLE = """
:root { color-scheme: light dark; --page:#fbfcfb; --ink:#1c211f; --soft:#66706b; --line:#dfe4e1; --shade:#eef3f0;
  --s0:#2c7a55; --s1:#b4642d; --s2:#4a68a8; --s3:#8a4f8f; --s4:#7a7a2c;
  --s5:#2b8a9c; --s6:#c04f72; --s7:#7b5b3a; --s8:#5a6570; --s9:#96a83c; --wrong:#a8412f }
@media (prefers-color-scheme: dark) { :root { --page:#151917; --ink:#e4e9e6; --soft:#94a09a; --line:#303733;
  --shade:#1e2521; --s0:#62b88c; --s1:#dc9359; --s2:#86a4e0; --s3:#c48bca; --s4:#bdbd62;
  --s5:#6cc3d4; --s6:#e88aa8; --s7:#c3a27c; --s8:#a5b0bb; --s9:#c8d878; --wrong:#e07f6c } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; text-rendering: optimizeLegibility }
main { max-width: 1080px; margin: 0 auto; padding: 44px 28px 64px }
header p { margin: 2px 0; color: var(--soft) }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.01em; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 18px; margin: 46px 0 14px; padding-top: 14px; border-top: 1px solid var(--line) }
h3 { font-size: 14px; margin: 24px 0 8px; color: var(--soft); font-weight: 600 }
.state { color: var(--s0); font-weight: 600 } .state.bad { color: var(--wrong) }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 14px; margin: 26px 0 0 }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px 12px }
.tile b { display: block; font-size: 28px; line-height: 1.25; font-weight: 600; letter-spacing: -.01em }
.tile.first b { color: var(--s0) }
.tile span { color: var(--soft); font-size: 13px; display: block }
.facts { display: flex; flex-wrap: wrap; gap: 4px 36px; margin: 20px 0 0 }
.facts div { min-width: 0 } .facts dt { color: var(--soft); font-size: 13px } .facts dd { margin: 0; font-weight: 600 }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr)); gap: 22px 28px }
figure { margin: 0 } figcaption { color: var(--soft); font-size: 13px; margin-top: 4px }
svg { width: 100%; height: auto; display: block }
.scroll { overflow-x: auto; margin-top: 10px }
table { border-collapse: collapse; width: 100%; font-size: 14px }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; color: var(--soft); white-space: nowrap }
td.n, th.n { text-align: right; white-space: nowrap } td:last-child, th:last-child { padding-right: 0 }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
.pairs td:first-child { width: 17em; color: var(--soft) }
td code { overflow-wrap: anywhere }
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 16px }
.example { border: 1px solid var(--line); border-left: 3px solid var(--s0); border-radius: 6px; padding: 10px 14px;
  min-width: 0 }
.example.wrong { border-left-color: var(--wrong) }
.example dl { margin: 0; display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 14px }
.example dt { font-size: 13px; color: var(--soft) }
.example dd { margin: 0 } .example pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 22em;
  overflow-y: auto }
details { margin-top: 12px } summary { cursor: pointer; color: var(--s0); font-weight: 600; margin-bottom: 8px }
footer { margin-top: 48px; color: var(--soft); font-size: 13px }
@media print { body { background: #fff } .example pre { max-height: none } }
"""

"""How the page looks: the system's font, one accent colour, dark or light, narrow or wide."""

__all__ = ["STYLE"]

STYLE = """
:root{--text:#16191d;--soft:#5b6570;--line:#dfe3e7;--back:#fff;--accent:#0f766e}
@media(prefers-color-scheme:dark){
:root{--text:#e8ebee;--soft:#98a3ae;--line:#2d343b;--back:#101316;--accent:#2dd4bf}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 3rem}
.name{margin:0;color:var(--accent);font-weight:600}
h1{font-size:1.55rem;line-height:1.3;margin:.3rem 0 1rem;text-wrap:balance}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p{margin:.4rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.5rem 1.5rem;
margin:1.2rem 0 0}
dt{color:var(--soft);font-size:.85rem}
dd{margin:0}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th{color:var(--soft);font-weight:500;text-align:left}
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:middle}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.86rem;overflow-wrap:anywhere}
svg{fill:var(--accent)}
.stack{display:block;width:100%;height:1.6rem;border-radius:.3rem;margin-bottom:.6rem}
.bar{display:block;width:100%;min-width:3rem;height:.55rem}
td:has(.bar){width:35%}
.part{white-space:nowrap}
.key{width:.75rem;height:.75rem;margin-right:.5rem}
.curve{display:block;width:100%;height:9rem;border-bottom:1px solid var(--line)}
.area{fill-opacity:.18}
.line{fill:none;stroke:var(--accent);stroke-width:1.5;vector-effect:non-scaling-stroke}
.axis{display:flex;justify-content:space-between;color:var(--soft);font-size:.85rem}
ul{padding-left:1.1rem;margin:.4rem 0}
a{color:var(--accent)}
@media(max-width:40rem){h1{font-size:1.25rem}td:has(.bar){width:3rem}th,td{padding-right:.5rem}}
"""

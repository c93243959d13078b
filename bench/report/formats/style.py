"""The style of the HTML report: one column on a phone, light or dark as the reader's system is."""

#: --c1 to --c8 are the series of the plots, the last one for what matters least.
CSS = """
:root{color-scheme:light dark;--ground:#f5f6f8;--paper:#fff;--ink:#16191d;--muted:#5a6370;--line:#dfe3e9;
--good:#1f7a37;--bad:#c02a1d;--warn:#8a5a00;--warn-ground:#fff4d9;
--c1:#1c6dd0;--c2:#e8590c;--c3:#2f9e44;--c4:#7048e8;--c5:#1098ad;--c6:#c2255c;--c7:#a07a10;--c8:#8a94a3}
@media (prefers-color-scheme:dark){:root{--ground:#0f1215;--paper:#181c21;--ink:#e9ecf0;--muted:#9ba5b2;--line:#2d343d;
--good:#69c680;--bad:#ff8a7d;--warn:#f0c36a;--warn-ground:#2f2713;
--c1:#5aa2f5;--c2:#ff9355;--c3:#69c680;--c4:#a58bff;--c5:#4fc6d9;--c6:#f27aa6;--c7:#d8b24a;--c8:#7d8794}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:1180px;margin:0 auto;padding:0 16px}
header{padding-top:28px}
h1{font-size:26px;line-height:1.2;margin:0}
h1 small{font-weight:400;color:var(--muted)}
h2{font-size:18px;margin:36px 0 10px}
p{margin:6px 0}
.note,figcaption small{color:var(--muted);font-size:13px}
.warning{background:var(--warn-ground);color:var(--warn);border-left:4px solid var(--warn);padding:8px 12px;
border-radius:4px;margin:14px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:10px;margin:20px 0 0;padding:0;
list-style:none}
.card,figure,.table,.facts,details{background:var(--paper);border:1px solid var(--line);border-radius:10px}
.card{padding:12px 14px}
.card b{display:block;font-size:24px;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.card b small{display:inline-block;font-size:14px;font-weight:500;color:var(--muted)}
.card span{display:block;color:var(--muted);font-size:13px}
.good{color:var(--good)!important}.bad{color:var(--bad)!important}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:12px;align-items:start}
.wide{grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr))}
figure{margin:0;padding:12px 12px 8px;min-width:0}
figcaption{font-weight:600;margin-bottom:6px}
figcaption small{display:block;font-weight:400}
svg{display:block;width:100%;height:auto}
.wide svg{max-width:490px}
svg *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:6px 0;padding:0;font-size:13px;
color:var(--muted)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px;background:var(--color)}
.table{padding:2px 14px;margin:10px 0}
table{border-collapse:collapse;width:100%;font-size:14px}
caption{text-align:left;font-weight:600;padding:10px 0 4px}
th,td{padding:6px 8px 6px 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums}
th:last-child,td:last-child{padding-right:0}
thead th{overflow-wrap:normal;color:var(--muted);font-weight:500;font-size:13px}
th[scope=row]{font-weight:500;overflow-wrap:anywhere}
td{overflow-wrap:normal}
td.number{white-space:nowrap}td.text{overflow-wrap:anywhere}
th:first-child,.text{text-align:left!important}
tbody tr:last-child>*{border-bottom:0}
td small,th small{color:var(--muted);font-size:12px;font-weight:400}
td small{display:inline-block;min-width:72px}th small{display:block}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(240px,100%),1fr));gap:10px 20px;margin:10px 0;
padding:14px}
.facts dt{color:var(--muted);font-size:13px}
.facts dd{margin:0}
details{margin:10px 0;padding:0 14px}
summary{cursor:pointer;padding:10px 0;font-weight:600}
details .table,details .facts{border:0;padding:0;margin:0 0 10px}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{white-space:pre-wrap;margin:0 0 12px}
footer{color:var(--muted);font-size:13px;padding-top:24px;padding-bottom:40px}
@media (max-width:480px){header,main,footer{padding-left:12px;padding-right:12px}header{padding-top:20px}
h1{font-size:22px}table{font-size:13px}th,td{padding-right:6px}.table{padding:2px 10px}
td small{display:block;min-width:0}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}.card{padding:10px 12px}.card b{font-size:21px}}
@media print{body{background:#fff}figure,.card,.table{break-inside:avoid}}
"""

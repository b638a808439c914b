"""Draws bars from samples: `chart.py summarise RESULTS.jsonl CELL METRIC NAME TITLE UNIT` writes
docs/charts/data/NAME.json, and `chart.py draw [FOLDER]` makes NAME.svg of each such file, in
docs/charts or in FOLDER.

A bar is a median over the rounds, and the line on it goes from the first quartile to the third."""

import glob
import html
import json
import os
import statistics
import sys

from tables import quartiles

CHARTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "charts")

# The servers of a chart, with the names that readers know.
NAMES = {
    "gopark": "gopark",
    "go": "Go",
    "tokio": "tokio",
    "may": "may",
    "smol": "smol",
    "std": "threads",
    "hyper": "hyper",
    "raw2": "raw epoll loop",
}

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 720, 130, 90, 64, 34, 20

# Text and the lines of quartiles take a grey that has contrast on white and on black.
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #3d444d }
.title { font-size: 17px; font-weight: 600 }
.note { font-size: 12px }
.own { font-weight: 700 }
.bar { fill: #8d96a0 }
.bar.own { fill: #d9651f }
.spread { stroke: #3d444d; stroke-width: 1.5; fill: none }
@media (prefers-color-scheme: dark) {
text { fill: #d1d7e0 }
.bar { fill: #656c76 }
.bar.own { fill: #ee7b30 }
.spread { stroke: #d1d7e0 }
}
"""


def summarise(results, cell, metric, name, title, unit):
    """Writes the medians and quartiles of a cell. Only rounds in which all servers succeeded
    count, so that the bars come from the same rounds."""
    samples = []
    with open(results, encoding="utf-8") as lines:
        samples = [s for s in map(json.loads, lines) if s["cell"] == cell and s["server"] in NAMES]
    servers = {server: {} for server in NAMES if any(s["server"] == server for s in samples)}
    for sample in samples:
        if metric in sample:
            servers[sample["server"]][sample["round"]] = sample
    rounds = set.intersection(*(set(of) for of in servers.values()))
    chart = {"title": title, "unit": unit, "cell": cell, "rounds": len(rounds), "servers": {}}
    disturbed = [s["disturbed_pct"] for s in samples if s["round"] in rounds]
    chart["disturbed_pct"] = round(statistics.median(disturbed), 1)
    for server, of in servers.items():
        values = [of[number][metric] for number in rounds]
        low, middle, high = (round(value, 3) for value in quartiles(values))
        chart["servers"][server] = {"q1": low, "median": middle, "q3": high}
        ratios = [of[number][metric] / servers["gopark"][number][metric] for number in rounds]
        low, middle, high = (round(value, 3) for value in quartiles(ratios))
        chart["servers"][server]["by_gopark"] = {"q1": low, "median": middle, "q3": high}
    os.makedirs(f"{CHARTS}/data", exist_ok=True)
    with open(f"{CHARTS}/data/{name}.json", "w", encoding="utf-8") as file:
        json.dump(chart, file, indent=1)
        file.write("\n")


def text(x, y, words, kind="", anchor="start"):
    classes = f' class="{kind}"' if kind else ""
    at = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}"{classes}{at}>{html.escape(words)}</text>'


def svg(chart):
    rows = sorted(chart["servers"].items(), key=lambda row: row[1]["median"])
    height = TOP + ROW * len(rows) + 34
    most = max(row["q3"] for _, row in rows)
    scale = (WIDTH - LEFT - RIGHT) / most
    summary = ", ".join(f"{NAMES[name]} {row['median']:.2f}" for name, row in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img">',
        f"<title>{html.escape(chart['title'])}</title>",
        f"<desc>{html.escape(chart['unit'])}: {html.escape(summary)}</desc>",
        f"<style>{STYLE}</style>",
        text(16, 26, chart["title"], "title"),
        text(16, 47, f"{chart['unit']}; less is better", "note"),
    ]
    for i, (name, row) in enumerate(rows):
        y = TOP + ROW * i
        own = " own" if name == "gopark" else ""
        middle = y + BAR / 2
        low, high = (LEFT + row[key] * scale for key in ("q1", "q3"))
        length = row["median"] * scale
        parts += [
            text(LEFT - 10, middle + 5, NAMES[name], own.strip(), "end"),
            f'<rect class="bar{own}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}"/>',
            f'<path class="spread" d="M{low:.1f} {middle - 4}v8m0-4H{high:.1f}m0-4v8"/>',
            text(max(high, LEFT + length) + 8, middle + 5, f"{row['median']:.2f}", own.strip()),
        ]
    note = (
        f"Medians of {chart['rounds']} rounds; thin lines: quartiles. Other programs took"
        f" {chart['disturbed_pct']:.0f} % of the machine."
    )
    parts += [text(16, height - 12, note, "note"), "</svg>"]
    return "\n".join(parts) + "\n"


def draw(folder=CHARTS):
    for path in sorted(glob.glob(f"{CHARTS}/data/*.json")):
        with open(path, encoding="utf-8") as file:
            chart = json.load(file)
        name = os.path.basename(path).removesuffix(".json")
        with open(f"{folder}/{name}.svg", "w", encoding="utf-8") as file:
            file.write(svg(chart))


if sys.argv[1:2] == ["summarise"] and len(sys.argv) == 8:
    summarise(*sys.argv[2:])
elif sys.argv[1:2] == ["draw"] and len(sys.argv) <= 3:
    draw(*sys.argv[2:])
else:
    sys.exit(__doc__)

"""Tables in Markdown from samples: medians, and ratios of samples of the same round."""

import os
import statistics

DISTURBED = float(os.environ.get("DISTURBED", "25"))
BASE = os.environ.get("BASE", "go,tokio,hyper,raw1").split(",")


def number(value):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def header(cells):
    return row(cells) + "\n|" + "---|" * len(cells)


def calm(samples):
    """Those that others disturbed little, and at least the three calmest."""
    samples = [sample for sample in samples if "error" not in sample]
    samples.sort(key=lambda sample: sample.get("disturbed_pct", 0))
    return [s for i, s in enumerate(samples) if i < 3 or s.get("disturbed_pct", 0) <= DISTURBED]


def quartiles(values):
    if len(values) < 2:
        return values[0], values[0], values[0]
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def ratios(samples, others, metric):
    """The metric of a server's samples, divided by that of another's sample of the same round: the
    drift of the machine drops out."""
    rounds = {s["round"]: s[metric] for s in others if s.get(metric)}
    return [
        s[metric] / rounds[s["round"]]
        for s in samples
        if s["round"] in rounds and s.get(metric) is not None
    ]


def ratio(samples, others, metric):
    """The median of the ratios and their quartiles, as text."""
    found = ratios(samples, others, metric)
    if not found:
        return "-"
    low, middle, high = quartiles(found)
    return f"{middle:.2f} ({low:.2f}, {high:.2f})" if len(found) > 1 else f"{middle:.2f}"


def median(samples, metric):
    values = [s[metric] for s in samples if s.get(metric) is not None]
    return statistics.median(values) if values else None


def group(samples, key):
    groups = {}
    for sample in samples:
        groups.setdefault(sample[key], []).append(sample)
    return groups


def print_failures(samples):
    lines = (
        f"- failed: {s.get('cell', '')} {s['server']}: {(s['error'].splitlines() or ['died'])[-1]}"
        for s in samples
        if "error" in s
    )
    for line in dict.fromkeys(lines):
        print(line)


def print_cells(samples, metrics, compared):
    """A table for each cell: medians of `metrics`, and the ratios of `compared` to each base."""
    for cell, of_cell in group(samples, "cell").items():
        servers = {name: calm(rows) for name, rows in group(of_cell, "server").items()}
        servers = {name: rows for name, rows in servers.items() if rows}
        bases = [base for base in BASE if base in servers]
        shown = [m for m in metrics if any(m in s for rows in servers.values() for s in rows)]
        titles = ["server", "n", *shown]
        titles += [f"{metric} ÷ {base}" for metric in compared for base in bases]
        print(f"\n### {cell}\n\n{header(titles)}")
        for name, rows in servers.items():
            cells = [name, str(len(rows))] + [number(median(rows, metric)) for metric in shown]
            cells += [
                ratio(rows, servers[base], metric) for metric in compared for base in bases
            ]
            print(row(cells))
    print()
    print_failures(samples)


def print_micro(samples):
    """A table of medians, and one of the first server's ratios to the others."""
    values, units, servers = {}, {}, {}
    for sample in samples:
        servers[sample["server"]] = None
        for name, (value, unit) in sample.get("values", {}).items():
            units[name] = unit
            entry = {"round": sample["round"], "value": value}
            entry["disturbed_pct"] = sample.get("disturbed_pct", 0)
            values.setdefault(name, {}).setdefault(sample["server"], []).append(entry)
    print(f"\nMedians.\n\n{header(['bench', 'unit', *servers])}")
    for name, of in values.items():
        medians = [number(median(calm(of.get(server, [])), "value")) for server in servers]
        print(row([name, units[name], *medians]))
    first, *others = servers
    if others:
        print(f"\n{first} ÷ another: medians of same-round ratios, and quartiles.\n")
        print(header(["bench", *others]))
        for name, of in values.items():
            if units[name] == "tasks":
                continue
            own = calm(of.get(first, []))
            print(row([name] + [ratio(own, calm(of.get(o, [])), "value") for o in others]))
    print()
    print_failures(samples)


def print_noise(samples):
    disturbed = sorted(s["disturbed_pct"] for s in samples if "disturbed_pct" in s)
    if disturbed:
        worst, most = disturbed[-1], disturbed[int(len(disturbed) * 0.9)]
        middle = statistics.median(disturbed)
        print(
            f"Other processes and steal took, of the machine during a sample: median {middle} %,"
            f" nine in ten under {most} %, at most {worst} %."
        )

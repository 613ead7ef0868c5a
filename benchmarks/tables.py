"""The tables of the README, made from ``benchmarks/results/*.json``.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.harness import RESULTS

_RATIOS = (
    ("", "× transformers, question by question"),
    (", duplicates not merged", "duplicates not merged"),
    (", features known", "features known"),
    (", same plan in torch", "× the same plan in torch"),
    (", nothing shared", "nothing shared"),
)


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _spread(value: dict[str, float] | None) -> str:
    return f"{value['median']:.1f} ({value['min']:.1f}-{value['max']:.1f})" if value else ""


def pope(*names: str) -> str:
    """Return questions per second against transformers, a row per size, dtype and budget."""
    rows = []
    for name in names:
        for r in _read(name)["results"]:
            ratios = [_spread(r.get(f"ratio{key}")) for key, _ in _RATIOS]
            rows.append([f"{r['size']}, {r['dtype']}", str(r["budget"]), *ratios])
    return _table(["model", "K", *(words for _, words in _RATIOS)], rows)


def selection() -> str:
    """Return SCOPE's order against torch's, cosines included."""
    rows = [
        [
            f"{r['images']} × {r['tokens']}, K = {r['kept']}",
            f"{1e3 * r['torch']['median']:.0f} ms",
            f"{1e3 * r['ours']['median']:.1f} ms",
            _spread(r["ratio"]),
        ]
        for r in _read("selection")["from_features"]
    ]
    return _table(["images × tokens", "torch", "ours", "×"], rows)


def pruners() -> str:
    """Return every pruner's milliseconds per image, against torch and beside the vision tower."""
    found = _read("pruners")
    cases = [found["cases"][0], found["cases"][-1]]
    head = ["method"]
    for case in cases:
        shape = f"{case['images']} × {case['tokens']}, K = {case['kept']}"
        head += [f"{shape}: torch", "ours", "×"]
    rows = []
    for name, first in cases[0]["methods"].items():
        row = [f"`{name}`"]
        for case in cases:
            r = case["methods"][name]
            times = [f"{1e3 * r[side]['median']:.3g} ms" for side in ("torch", "ours")]
            row += [*times, f"{r['ratio to torch']['median']:.1f}"]
        share = first.get("share of tower")
        rows.append([*row, "" if share is None else f"{share:.1%}"])
    return _table([*head, "of the tower"], rows)


def coldstart() -> str:
    """Return the seconds of starts and runs of the embedded model."""
    found = _read("coldstart")
    rows = [[name, _spread(value)] for name, value in found["seconds"].items()]
    rows.append(
        ["sweep of 9 settings, warm / main job, cold", _spread(found["sweep over main job"])]
    )
    return _table(["what", "seconds"], rows)


def precision() -> str:
    """Return the largest and the mean error of answer probabilities against float32."""
    found = _read("precision")["error of answer probability"]
    rows = [[name, f"{v['max']:.1e}", f"{v['mean']:.1e}"] for name, v in found.items()]
    return _table(["side, format", "largest error", "mean"], rows)


def growth() -> str:
    """Return how the time of the engine grows, in milliseconds."""
    rows = [
        [size, name, *(f"{key}: {1e3 * v['median']:.1f}" for key, v in values.items())]
        for size, tables in _read("growth")["seconds"].items()
        for name, values in tables.items()
    ]
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    return _table(["model", "number of", *["ms"] * (width - 2)], rows)


def bootstrap() -> str:
    """Return the time of 1,000 resamples of seven metrics, and of one calibration error."""
    race = _read("calibration")["race"]
    rows = []
    for name, value in race["seconds"].items():
        unit = name.partition(", ")[2]
        ratio = race["numpy over ours"].get(unit) if name.startswith("ours") else None
        memory = race["MiB above the data"].get(name)
        cell = f"{memory:.0f} MiB" if memory is not None else ""
        rows.append([name, f"{1e3 * value['median']:.3g} ms", _spread(ratio), cell])
    return _table(["9,000 rows", "time", "× numpy", "above the data"], rows)


def bootstrap_growth() -> str:
    """Return how the bootstrap's time grows with rows and resamples."""
    found = _read("calibration")["growth"]
    rows = [
        [
            f"{r['rows']:,}",
            f"{r['resamples']:,}",
            f"{r['seconds']:.3g} s",
            f"{r['ns per row and resample']:.0f} ns",
        ]
        for r in found
    ]
    return _table(["rows", "resamples", "time", "per row and resample"], rows)


def simulation() -> str:
    """Return how often intervals cover and tests reject, where images have effects."""
    found = _read("calibration")["simulation"]
    shares = found["95 % intervals that cover"]
    rows = [
        [
            f"95 % interval of {metric} covers",
            *(f"{100 * shares[unit][metric]:.1f} %" for unit in shares),
        ]
        for metric in next(iter(shares.values()))
    ]
    rejected = [
        f"{100 * share:.1f} %" for share in found["equal settings rejected at 5 %"].values()
    ]
    rows.append(["equal settings told apart at 5 %", *rejected])
    return _table([f"{found['data sets']:,} data sets", *shares], rows)


if __name__ == "__main__":
    parts = (
        pope("pope-0.85B", "pope-tiny", "pope-h200"),
        selection(),
        pruners(),
        precision(),
        coldstart(),
        growth(),
        bootstrap(),
        bootstrap_growth(),
        simulation(),
    )
    print("\n\n".join(parts))

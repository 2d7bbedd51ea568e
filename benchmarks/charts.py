"""`make bench-page`: the charts of docs/performance.md, from `results/latest.json`.

They are drawn by matplotlib, which is in `.venv-bench` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.page import LATEST, ROOT, fingerprint, result_of
from benchmarks.ratios import title

IMAGES = ROOT / "docs" / "images"
BARE, OURS, PEER = "#8c8c8c", "#1f6fb2", "#d08a3c"

CHARTS: dict[str, tuple[str, Sequence[str]]] = {
    "benchmark-relay.png": (
        "Relay: PostgreSQL to JetStream",
        ("relay_raw", "relay", "relay_hot", "relay_txoutbox", "relay_faststream_outbox"),
    ),
    "benchmark-worker.png": (
        "Worker: JetStream to PostgreSQL, one inbox row and one business row each",
        (
            "consume_raw_batch",
            "consume_raw_each",
            "consume",
            "consume_batch_handler",
            "consume_faststream",
        ),
    ),
    "benchmark-constancy.png": (
        "Relay beside rows that it has nothing to do with",
        ("relay", "relay_1m_sent", "relay_50k_blocked", "relay_open_snapshot"),
    ),
}


def colour(name: str) -> str:
    if name.endswith(("_raw", "_raw_batch", "_raw_each")):
        return BARE
    return PEER if name.endswith(("txoutbox", "faststream_outbox", "faststream")) else OURS


def draw(file: str, result: dict[str, Any]) -> None:
    """Draw one bar for each measurement, with a line from its lowest to its highest round."""
    import matplotlib.pyplot as plt

    heading, names = CHARTS[file]
    measured = [result["measurements"][name] for name in names]
    medians = [one["median"] for one in measured]
    below = [median - min(one["rounds"]) for median, one in zip(medians, measured, strict=True)]
    above = [max(one["rounds"]) - median for median, one in zip(medians, measured, strict=True)]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.5 * len(names)), layout="constrained")
    axes.barh(
        [title(name, result["sizes"]) for name in names],
        medians,
        xerr=[below, above],
        color=[colour(name) for name in names],
        error_kw={"elinewidth": 1, "capsize": 3},
    )
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(f"events/s, median and range of {result['rounds']} rounds")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
    marks = {"Software": None, "Description": fingerprint(result)}
    figure.savefig(IMAGES / file, dpi=110, metadata=marks)
    plt.close(figure)


def main() -> None:
    result = result_of(LATEST)
    for file in CHARTS:
        draw(file, result)
        print(f"written: docs/images/{file}")


if __name__ == "__main__":
    main()

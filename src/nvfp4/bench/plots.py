"""Pictures made from records: the roofline of a device with what was reached on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvfp4.bench import roofline, tables
from nvfp4.bench.records import Record
from nvfp4.errors import InputError, MissingDependencyError
from nvfp4.problem import Op

_MARKS = {Op.GEMV: "o", Op.GEMM: "s", Op.DUAL_GEMM: "D", Op.GROUP_GEMM: "^", Op.GROUP_DUAL_GEMM: "v"}
_OURS, _PEERS, _ROOF = "#1f6feb", "#9aa4af", "#30363d"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    # The same records give the same file, byte for byte: no random identifiers, text as text.
    matplotlib.rcParams.update({"svg.hashsalt": "nvfp4", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    return plt


def roofline_plot(records: Sequence[Record], path: Path | str) -> Path:
    """Draw TFLOP/s over FLOPs per byte: the roofs of the device, our best and the best peer for each record.

    Args:
        records: Records of one device.
        path: Where to write; the ending (``.svg``, ``.png``) decides the format.

    Raises:
        InputError: There are no records, or they are of several devices.
    """
    devices = {str(record.device["name"]) for record in records}
    if len(devices) != 1:
        raise InputError("plots", "records", "records of one device", sorted(devices), "Select the records first.")
    plt = _pyplot()
    limits = records[0].limits
    rate = max(limits.rate(record.problem) for record in records)
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    reached = [roofline.intensity(record.problem) for record in records]
    low, high = min(reached) / 2, max(*reached, rate / limits.bandwidth) * 3
    ridge = rate / limits.bandwidth
    memory = f"memory {limits.bandwidth / 1e12:.1f} TB/s"
    axes.plot([low, ridge], [low * limits.bandwidth / 1e12, rate / 1e12], color=_ROOF, lw=1.2, label=memory)
    compute = f"matrix units {rate / 1e12:.0f} TFLOP/s"
    axes.plot([ridge, high], [rate / 1e12] * 2, color=_ROOF, lw=1.2, ls="--", label=compute)
    labelled: set[str] = set()
    for record in sorted(records, key=lambda record: (list(Op).index(record.problem.op), record.problem.flops)):
        x = roofline.intensity(record.problem)
        for role, color, who in (("peer", _PEERS, "best peer"), ("nvfp4", _OURS, "nvfp4")):
            entry = record.best(role)
            if entry is None:
                continue
            label = f"{record.problem.op}, {who}"
            axes.plot(
                [x],
                [record.problem.flops / entry.samples.median / 1e12],
                marker=_MARKS[record.problem.op],
                color=color,
                ls="",
                ms=6,
                label=None if label in labelled else label,
            )
            labelled.add(label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("FLOP per byte that must be moved")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"{devices.pop()}, {records[0].protocol.name}")
    axes.grid(True, which="major", alpha=0.25)
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, bbox_inches="tight", dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)
    return target


def plot_all(records: Sequence[Record], directory: Path) -> tuple[Path, ...]:
    """One roofline for each device, from its newest back-to-back records."""
    drawn = []
    for device in sorted({tables.slug(str(record.device["name"])) for record in records}):
        chosen = [record for op in Op for record in tables.select(records, device, op, "back-to-back")]
        if chosen:
            drawn.append(roofline_plot(chosen, directory / f"roofline-{device}.svg"))
    return tuple(drawn)

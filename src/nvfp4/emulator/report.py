"""What a launch did: findings, counters, profile by source line, timeline of waits."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .runtime.layout import Counter

__all__ = ["Finding", "LineProfile", "Report", "Wait"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a kernel.

    kind: a stable name ("race", "out-of-bounds", ...). message: the full text with place and values. remedy: what to
    do.
    """

    kind: str
    message: str
    remedy: str
    kernel: str
    line: int
    source: str
    cta: int | None = None
    warp: int | None = None
    lane: int | None = None
    count: int = 1

    def __str__(self) -> str:
        where = f"PTX line {self.line}" if self.line else "at the end of the launch"
        if self.source:
            where += f", {self.source}"
        who = ""
        if self.cta is not None:
            who = f", CTA {self.cta}"
            if self.warp is not None:
                who += f", warp {self.warp}"
            if self.lane is not None:
                who += f", lane {self.lane}"
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.kind}: {self.message}{times}\n    in {self.kernel}, {where}{who}\n    remedy: {self.remedy}"


@dataclass(frozen=True)
class LineProfile:
    """Warp instructions and active lanes of one source line."""

    source: str
    instructions: int
    lanes: int


@dataclass(frozen=True)
class Wait:
    """A wait at a barrier, in steps (warp instructions of the launch)."""

    begin: int
    end: int
    cta: int
    warp: int
    barrier: str
    line: int


@dataclass
class Report:
    """The outcome of a launch."""

    kernel: str
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    instructions: dict[str, int] = field(default_factory=dict)
    lines: list[LineProfile] = field(default_factory=list)
    wait_source: Callable[[], list[Wait]] = field(default=list, repr=False)
    output: list[str] = field(default_factory=list)
    seconds: float = 0.0
    compile_seconds: float = 0.0
    steps: int = 0

    @cached_property
    def waits(self) -> list[Wait]:
        """Waits at barriers, the first 65536 of the launch."""
        return self.wait_source()

    @property
    def clean(self) -> bool:
        """No findings."""
        return not self.findings

    def findings_text(self) -> str:
        """All findings, one paragraph each."""
        return "\n\n".join(str(f) for f in self.findings)

    def kinds(self) -> list[str]:
        """The kinds of the findings, without repetition."""
        return list(dict.fromkeys(f.kind for f in self.findings))

    def __str__(self) -> str:
        rate = self.steps / self.seconds / 1e6 if self.seconds else 0.0
        parts = [
            f"{self.kernel}: {'clean' if self.clean else f'{len(self.findings)} finding(s)'}, "
            f"{self.steps:,} warp instructions in "
            f"{self.seconds:.2f} s ({rate:.0f} M/s), compiled in {self.compile_seconds:.2f} s"
        ]
        if self.findings:
            parts.append(self.findings_text())
        if self.instructions:
            ranked = sorted(self.instructions.items(), key=lambda x: -x[1])
            parts.append("instructions  " + "  ".join(f"{name} {count:,}" for name, count in ranked))
        shown = [f"  {name.replace('_', ' '):24} {count:>16,}" for name, count in self.counts.items() if count]
        if shown:
            parts.append("counters\n" + "\n".join(shown))
        return "\n".join(parts)

    def profile(self, top: int = 20) -> str:
        """The source lines that execute most, as text."""
        total = sum(line.instructions for line in self.lines) or 1
        ranked = sorted(self.lines, key=lambda line: -line.instructions)[:top]
        rows = [
            f"{line.instructions / total:6.1%} {line.instructions:>14,} "
            f"{line.lanes / max(1, line.instructions):5.1f}  {line.source}"
            for line in ranked
        ]
        return "\n".join([" share   instructions lanes  source", *rows])

    def timeline(self, cta: int = 0, width: int = 96) -> str:
        """Barrier waits of one CTA as text: a row a warp, ``#`` where it waits."""
        waits = [w for w in self.waits if w.cta == cta]
        if not waits:
            return f"CTA {cta}: no waits recorded"
        begin, end = 0, max(max(w.end for w in waits), 1)
        rows = []
        for warp in sorted({w.warp for w in waits}):
            row = ["."] * width
            names: Tally[str] = Tally()
            for w in waits:
                if w.warp == warp:
                    a, b = (int((t - begin) * (width - 1) / (end - begin)) for t in (w.begin, w.end))
                    for x in range(a, max(a + 1, b)):
                        row[x] = "#"
                    names[w.barrier] += w.end - w.begin
            top = ", ".join(f"{name} {steps:,}" for name, steps in names.most_common(3))
            rows.append(f"warp {warp:2} |{''.join(row)}| waits: {top}")
        return "\n".join([f"CTA {cta}, steps {begin:,} to {end:,} (# waiting)", *rows])

    def timeline_png(self, path: str | Path, cta: int = 0) -> Path:
        """The timeline of one CTA as a picture: a row a warp, a colour a barrier."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        waits = [w for w in self.waits if w.cta == cta]
        warps = sorted({w.warp for w in waits}) or [0]
        figure = Figure(figsize=(12, 1 + 0.4 * len(warps)))
        FigureCanvasAgg(figure)
        axes: Any = figure.add_subplot()
        names = sorted({w.barrier for w in waits})
        for index, name in enumerate(names):
            for warp in warps:
                spans = [(w.begin, max(1, w.end - w.begin)) for w in waits if w.barrier == name and w.warp == warp]
                if spans:
                    axes.broken_barh(spans, (warps.index(warp) - 0.4, 0.8), color=f"C{index % 10}")
            axes.plot([], [], color=f"C{index % 10}", linewidth=6, label=name)
        axes.set_yticks(range(len(warps)), [f"warp {w}" for w in warps])
        axes.set_xlabel("warp instructions executed by the launch")
        axes.set_title(f"{self.kernel}, CTA {cta}: waits at barriers")
        if names:
            axes.legend(loc="upper right", fontsize="small")
        figure.tight_layout()
        target = Path(path)
        figure.savefig(target, dpi=120)
        return target


COUNTER_NAMES = {c.name.lower(): int(c) for c in Counter}

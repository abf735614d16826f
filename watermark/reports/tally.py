"""What many verdicts have in common."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from watermark.reports.tables import COLOURS, evidence_text, printable
from watermark.verdict import WATERMARKED, Verdict


@dataclass
class Tally:
    """Counts of verdicts, of which none is kept but a few that stand for the others.

    Attributes:
        statuses: images by status.
        keys: images that are ``watermarked``, by key.
        refusals: images without a test, by what the reason begins with, e.g. ``not_found``.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Verdict] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> Verdict:
        """Count one, and hand it on."""
        self.statuses[verdict.status] += 1
        if verdict.status == WATERMARKED and verdict.key is not None:
            self.keys[verdict.key] += 1
        if verdict.p_value is None:
            self.refusals[verdict.reason.partition(":")[0]] += 1
            return verdict
        widest = self.examples.setdefault("widest", verdict)
        if verdict.transforms_tried > widest.transforms_tried:
            self.examples["widest"] = verdict
        self.examples.setdefault(verdict.evidence, verdict)
        if verdict.status == WATERMARKED and verdict.fpr_bound is not None:
            worst = self.examples.setdefault("worst", verdict)
            if (verdict.null_hits, verdict.fpr_bound) > (worst.null_hits, worst.fpr_bound):
                self.examples["worst"] = verdict
        return verdict

    @property
    def images(self) -> int:
        """How many were counted."""
        return self.statuses.total()

    @property
    def evidence(self) -> str:
        """What their p-values rest on, see :func:`evidence_text`."""
        return evidence_text(list(self.examples.values()))

    def table(self, seconds: float) -> Table:
        """Counts by status, key and refusal, and the time that it took."""
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(overflow="fold")
        table.add_column(justify="right")
        for status, colour in COLOURS.items():
            table.add_row(Text(status, colour), f"{self.statuses[status]:,}")
            if status == WATERMARKED:
                add_counts(table, self.keys)
        table.add_row("images", f"{self.images:,}")
        if self.refusals:
            table.add_row("not tested", f"{self.refusals.total():,}")
            add_counts(table, self.refusals)
        rate = self.images / seconds if seconds > 0 else 0.0
        table.add_row("time", f"{duration(seconds)}, {rate:.3g} images a second")
        return table


def add_counts(table: Table, counts: Counter[str]) -> None:
    """Rows of a tally, the most frequent first."""
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(Text(f"  {printable(name)}"), f"{count:,}")


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    whole = round(seconds)
    return f"{seconds:.1f} s" if whole < 60 else f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"

"""Verdicts on candidates, as Markdown."""

from collections.abc import Sequence

from exfm.registry.promotion import HEADS, Verdict

SIGNS = {"passed": "✅", "serves": "✅", "refused": "⛔", "nothing new": "💤", "failed": "❌"}
"""Sign of each outcome of a judgement or a deployment."""


def headline(verdicts: Sequence[Verdict]) -> str:
    """Return one line about all verdicts."""
    return ", ".join(f"{verdict.judgement.name} {verdict.outcome}" for verdict in verdicts)


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """Return a page: each verdict with every figure, its bound and its margin."""
    return "\n".join(_section(verdict) for verdict in verdicts)


def _section(verdict: Verdict) -> str:
    judgement = verdict.judgement
    title = f"## {SIGNS[verdict.outcome]} {judgement.name}: {verdict.outcome}\n\n"
    if verdict.outcome == "nothing new":
        return f"{title}No window was learned since v{judgement.champion}, the champion. Nothing is registered.\n"
    if not judgement.windows:
        return f"{title}{verdict}.\n"
    against = (
        f"the champion, v{judgement.champion}"
        if judgement.champion
        else "absolute bounds, because there is no champion"
    )
    new = f"{judgement.num_new_windows} new" if judgement.num_new_windows < len(judgement.windows) else "all new"
    text = f"{title}Compared with {against}, on {judgement.span} ({new}).\n\n"
    counts = ", ".join(
        f"{task.task} {task.num_examples:,} ({task.num_positives:,} positive)" for task in judgement.tasks
    )
    entropies = ", ".join(
        f"{task.task} {task.normalized_entropy:.4f} ({task.champion_entropy:.4f})"
        for task in judgement.tasks
        if task.normalized_entropy is not None and task.champion_entropy is not None
    )
    of_champion = f" NE (the champion's): {entropies}." if entropies else ""
    rows = [HEADS, ("---",) * len(HEADS), *verdict.rows()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in verdict.notes)
    return f"{text}{table}\n\nExamples: {counts}.{of_champion} Losses are mean log losses, in nats.{notes}\n"

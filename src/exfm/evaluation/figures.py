"""The figures of a comparison, from the predictions of every method and the pseudo-labels of every teacher.

Legend: N examples, S seeds.
"""

from collections.abc import Mapping

import numpy as np

from exfm.evaluation.comparison import LargerQuality, MethodQuality, TaskComparison, TeacherComparison
from exfm.evaluation.config import AUTO, KD, LABEL, ComparisonConfig
from exfm.evaluation.field import Contender
from exfm.metrics.intervals import Figures, Labelled, Sampled, bootstrap
from exfm.metrics.quality import Floats

LINE = "reference line "
"""Begins the keys of reference lines, which differ so from all names of teachers."""


def compare_task(
    examples: Labelled, scores: Mapping[Contender, Floats], pseudo: Mapping[str, Floats],
    *, references: Mapping[str, Floats], config: ComparisonConfig,
) -> TaskComparison:  # fmt: skip
    """Return the comparison of scores, [S, N], and of each teacher's pseudo-labels, [N], on examples with known labels.

    `references` are the predictions of reference lines, [N]. The intervals of a difference are of paired samples.
    """
    num_examples = len(examples.labels_N)
    if not num_examples:
        return TaskComparison(num_examples=0, base_rate=None, teachers={})
    compared: dict[Contender | str, Floats] = dict(scores.items())
    compared |= {f"{LINE}{line}": scores_N[None] for line, scores_N in references.items()}
    compared |= {teacher: pseudo_N[None] for teacher, pseudo_N in pseudo.items() if not np.isnan(pseudo_N).any()}
    figures = bootstrap(examples, compared, num_samples=config.num_bootstrap_samples, seed=config.bootstrap_seed)
    own = next(iter(pseudo))
    label, kd_of = figures[Contender(own, LABEL)], {teacher: figures.get(Contender(teacher, KD)) for teacher in pseudo}

    def of_teacher(teacher: str) -> TeacherComparison:
        of_pseudo, kd = figures.get(teacher), kd_of[teacher]
        lead = label.normalized_entropy.minus(of_pseudo.normalized_entropy) if of_pseudo else None
        lead_interval = lead.interval() if lead else None
        of_lead = lead if lead_interval and lead_interval.excludes_zero else None
        return TeacherComparison(
            pseudo_labels=_quality(of_pseudo, label, kd=kd) if of_pseudo else None,
            methods={
                contender.method: _quality(
                    figures[contender],
                    label if contender.method != LABEL else None,
                    kd=kd if contender.method != KD else None,
                    lead=of_lead if contender.method != LABEL else None,
                )
                for contender in scores
                if contender.teacher == teacher and contender.size == 1
            },
        )

    def of_larger(contender: Contender) -> LargerQuality:
        from_auto = figures[contender].normalized_entropy.minus(figures[Contender(own, AUTO)].normalized_entropy)
        quality = _quality(figures[contender], label, kd=kd_of[own])
        return LargerQuality(**dict(quality), delta_ne_of_auto=from_auto.interval())

    return TaskComparison(
        num_examples=num_examples,
        base_rate=float(np.average(examples.labels_N, weights=examples.weights_N)),
        teachers={teacher: of_teacher(teacher) for teacher in pseudo},
        references={line: _quality(figures[f"{LINE}{line}"], label, kd=kd_of[own]) for line in references},
        larger={contender.size: of_larger(contender) for contender in scores if contender.size > 1},
    )


def _quality(
    figures: Figures, label: Figures | None, *, kd: Figures | None, lead: Sampled | None = None
) -> MethodQuality:
    delta_ne = figures.normalized_entropy.minus(label.normalized_entropy) if label else None
    return MethodQuality(
        normalized_entropy=figures.normalized_entropy.interval(),
        auc=figures.auc.interval(),
        calibration=figures.calibration.interval(),
        delta_ne=delta_ne.interval() if delta_ne else None,
        delta_auc=figures.auc.minus(label.auc).interval() if label else None,
        delta_ne_of_kd=figures.normalized_entropy.minus(kd.normalized_entropy).interval() if kd else None,
        transfer_ratio=delta_ne.times(-1).over(lead).interval() if delta_ne and lead else None,
    )

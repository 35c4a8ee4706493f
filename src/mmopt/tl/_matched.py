"""How large a perturbation's effects are, and whether the same done to other regulators does as much."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mmopt.grn.effects import Perturbation, benjamini_hochberg
from mmopt.grn.matching import matched_among
from mmopt.tl._interventions import Intervention, build
from mmopt.tl._scene import Stage

# other regulators that stand beside the one perturbed
_OTHERS = 20
# members of the network that compare them
_MEMBERS = 5


def rms_of_effects(delta: np.ndarray, block: slice, clamp: Perturbation) -> np.ndarray:
    """Root mean square of the effects in the columns of one modality that were not clamped; ``(n_groups,)``."""
    free = np.setdiff1d(np.arange(block.start, block.stop), list(clamp.clamps))
    return np.sqrt((delta[:, free] ** 2).mean(1)) if len(free) else np.zeros(len(delta))


def matched_in_screen(
    stage: Stage, jobs: Sequence[Sequence[Intervention]], norms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``matched_p`` of every perturbation of a screen among the others, and adjusted for their number in each group.

    Nothing is computed for it, so what was not asked for is not compared with; but nothing is drawn either.

    Parameters
    ----------
    norms
        ``(n_jobs, n_groups)`` sizes of the effects.
    """
    mean, regulators = stage.scene.cells.level.mean(0), stage.scene.network.regulators
    alone = [len(job) == 1 and job[0].column in regulators for job in jobs]
    expression = np.array([mean[job[0].column] if a else np.nan for job, a in zip(jobs, alone, strict=True)])
    kinds = pd.factorize(pd.Index([(job[0].mode, job[0].level) for job in jobs], tupleize_cols=False))[0]
    p = matched_among(norms, expression, kinds, 2 * _OTHERS)
    return p, np.stack([benjamini_hochberg(of_group) for of_group in p.T], axis=1)


def matched_p(
    stage: Stage, interventions: Sequence[Intervention], clamp: Perturbation, rng: np.random.Generator
) -> np.ndarray:
    """How often the same done to regulators of like expression has as large effects on RNA; NaN for doubles.

    All of them, the one asked for too, by the same few members.
    """
    regulators = stage.scene.network.regulators
    mine = [i for i in interventions if i.column in regulators]
    others = np.setdiff1d(regulators, list(clamp.clamps))
    if len(interventions) != 1 or not mine or len(others) < 4:
        return np.full(len(stage.groups), np.nan)
    one, rna = mine[0], stage.features.blocks["rna"]
    scene, place = stage.scene.narrowed(rna)
    members = range(0, scene.network.n_members, max(1, scene.network.n_members // _MEMBERS))

    def size(done: Perturbation) -> np.ndarray:
        few = done.placed(place)
        return rms_of_effects(scene.draws(few, members)[0].mean(0), rna, few)

    mean = stage.scene.cells.level.mean(0)
    near = others[np.argsort(np.abs(mean[others] - mean[one.column]))[: 2 * _OTHERS]]
    chosen, norm = rng.permutation(near)[:_OTHERS], size(clamp)
    larger = np.zeros(len(norm))
    for other in chosen:
        if one.mode == "set":
            # so many counts are little of one gene and much of another
            same = Perturbation({int(other): clamp.clamps[one.column]}, {}, clamp.n_steps)
        else:
            same = build(
                [replace(one, column=int(other))],
                stage.features,
                stage.scene,
                stage.links,
                stage.cognate,
                clamp.n_steps,
            )
        larger += size(same) >= norm
    return (1 + larger) / (1 + len(chosen))

"""The tables of ``benchmarks/twin``: what the twin predicted, beside what it has to beat, and where it loses."""

import pandas as pd

MODES = {"knockout": "knock-out", "overexpress": "over-expression"}
PREDICTIONS = {
    "twin": "twin",
    "linear_interpolation": "straight line",
    "previous_time": "the time before",
    "next_time": "the time after",
    "split_half_floor": "floor: the other half",
}
COURSES = {
    "semrau_mesc_ra": "Mouse embryonic stem cells under retinoic acid {cite:p}`semrau2017`, real",
    "r18": "The simulated course `r18`",
}
SCORES = {"w1": ("W1", 2), "w2": ("W2", 2), "mmd": ("MMD²", 4), "energy": ("energy", 2)}


def fates(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Mean total variation of each network and kind of intervention, and a sentence on where no change is nearer."""
    rows, lost = [], []
    for (network, mode), part in runs.groupby(["network", "mode"], sort=False):
        ours, none, measured = (part[c].mean() for c in ("tv", "tv_no_change", "tv_no_change_as_measured"))
        nearer = int((part["tv"] < part["tv_no_change"]).sum())
        rows.append(
            {
                "network": f"`{network}`",
                "intervention": MODES[mode],
                "twin": f"{ours:.3f}",
                "none, true": f"{none:.3f}",
                "measured": f"{measured:.3f}",
                "nearer": f"{nearer} of {len(part)}",
                "coverage": f"{part['coverage'].mean():.2f}",
                "width": f"{part['width'].mean():.2f}",
            }
        )
        if ours >= none:
            lost.append(f"`{network}` after {MODES[mode]} ({ours:.3f} against {none:.3f})")
    nearer, n = int((runs["tv"] < runs["tv_no_change"]).sum()), len(runs)
    words = f"Nearer for {nearer} of {n} interventions: the means are those of the regulators that change much. Farther from the truth than no change with the true shares: "
    return pd.DataFrame(rows), words + (", ".join(lost) or "nowhere") + ".\n"


def held_out(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Mean over the held-out times, one table for each course; the nearest prediction of a score is bold."""
    found = {}
    for data, part in scores.groupby("data", sort=False):
        rows = []
        for space, here in part.groupby("space", sort=False):
            means = here.groupby("prediction", sort=False)[list(SCORES)].mean()
            best = means.drop("split_half_floor").min()
            for name, row in means.iterrows():
                shown = {"space": space, "prediction": PREDICTIONS[name]}
                for score, (title, digits) in SCORES.items():
                    text = f"{row[score]:.{digits}f}"
                    leads = name != "split_half_floor" and text == f"{best[score]:.{digits}f}"
                    shown[title] = f"**{text}**" if leads else text
                rows.append(shown)
        n = part["time"].nunique()
        found[f"**{COURSES[data]}** ({n} times)"] = pd.DataFrame(rows)
    return found

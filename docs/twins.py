"""The tables of ``benchmarks/twin``: what the twin predicted, beside what it has to beat, and where it loses."""

import numpy as np
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
    kinds = runs["mode"].map(MODES).fillna("two at once")
    for (network, kind), part in runs.groupby(["network", kinds], sort=False):
        ours, none, measured = (part[c].mean() for c in ("tv", "tv_no_change", "tv_no_change_as_measured"))
        nearer = int((part["tv"] < part["tv_no_change"]).sum())
        rows.append(
            {
                "network": f"`{network}`",
                "intervention": kind,
                "twin": f"{ours:.3f}",
                "none, true": f"{none:.3f}",
                "measured": f"{measured:.3f}",
                "nearer": f"{nearer} of {len(part)}",
                "coverage": f"{part['coverage'].mean():.2f}",
                "width": f"{part['width'].mean():.2f}",
            }
        )
        if ours >= none:
            lost.append(f"`{network}` after {kind} ({ours:.3f} against {none:.3f})")
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


METHODS = {
    "simulate": "`simulate`",
    "perturb, network": "`perturb`",
    "perturb, twin": '`perturb(method="twin")`',
}
CELLS = {"end": "the last time point", "all": "all cells, each at its time"}
ROLES = {"rna": "RNA", "atac": "ATAC", "prot": "protein"}


def readout(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], str]:
    """Errors and intervals of each modality over all networks, and a sentence on where no change is nearer."""
    found, lost = {}, []
    for (cells, mode), part in rows.groupby(["cells", "mode"], sort=False):
        shown = []
        for (modality, method), here in part.groupby(["modality", "method"], sort=False):
            changed = here[here["n_changed"] > 0]
            weight = changed["n_changed"]
            of_all = here["mae"].mean() / here["mae_no_change"].mean()
            errors = (weight * changed["mae_changed"]).sum() / (
                weight * changed["mae_changed_no_change"]
            ).sum()
            shown.append(
                {
                    "modality": ROLES[modality],
                    "method": METHODS[method],
                    "r": f"{here['r'].mean():.2f}",
                    "error, all": f"{of_all:.2f}",
                    "error, changed": f"{errors:.2f}",
                    "coverage, all": f"{here['coverage'].mean():.2f}",
                    "coverage, changed": f"{np.average(changed['coverage_changed'], weights=weight):.2f}",
                    "width": f"{here['width'].mean():.2f}",
                    "nearer": f"{int((here['mae'] < here['mae_no_change']).sum())} of {len(here)}",
                }
            )
            if of_all >= 1:
                lost.append(
                    f"{METHODS[method]} on {ROLES[modality]} after {MODES[mode]} ({CELLS[cells]}, {of_all:.2f})"
                )
        found[f"**{MODES[mode].capitalize()}, {CELLS[cells]}**"] = pd.DataFrame(shown)
    return found, "No change is nearer on average over all features: " + (
        "; ".join(lost) or "nowhere"
    ) + ".\n"


FATES = {
    "twin": "twin: descendants in the couplings",
    "flow": "twin: where the velocity ends",
    "nearest_last": "nearest cells of the last time",
    "measured_shares": "shares of the last time",
    "majority": "majority of the last time",
    "nearest_traced": "nearest traced cells, which no twin sees",
}


def traced(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Accuracy of each prediction by time, mean over the networks, and where the twin gains nothing for sure."""
    wide = rows.pivot_table("accuracy", "prediction", "time").loc[list(FATES)]
    shown = pd.DataFrame({"prediction": list(FATES.values())})
    for time in wide:
        shown[f"day {time:g}"] = [f"{value:.2f}" for value in wide[time]]
    twin = rows[rows["prediction"] == "twin"]
    none = twin[twin["gain_lo"] <= 0]
    said = ", ".join(f"`{row.network}` on day {row.time:g}" for row in none.itertuples())
    return shown, (
        f"In {len(twin) - len(none)} of {len(twin)} cases the 90 % interval of the twin's gain over the measured shares lies above 0 "
        f"(exceptions: {said or 'none'}).\n"
    )


WINDOWS = {"pulse": "first third, then off", "late": "from the first third on", "whole": "whole course"}


def schedules(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Mean total variation of each window and kind of intervention, where no change is nearer, and the direction."""
    rows, lost = [], []
    for (window, mode), part in runs.groupby(["window", "mode"], sort=False):
        ours, none, measured = (part[c].mean() for c in ("tv", "tv_no_change", "tv_no_change_as_measured"))
        rows.append(
            {
                "held": WINDOWS[window],
                "intervention": MODES[mode],
                "twin": f"{ours:.3f}",
                "none, true": f"{none:.3f}",
                "measured": f"{measured:.3f}",
                "nearer": f"{int((part['tv'] < part['tv_no_change']).sum())} of {len(part)}",
                "coverage": f"{part['coverage'].mean():.2f}",
                "width": f"{part['width'].mean():.2f}",
            }
        )
        for network, here in part.groupby("network", sort=False):
            ours, none = here["tv"].mean(), here["tv_no_change"].mean()
            if ours >= none:
                lost.append(f"`{network}`, {MODES[mode]}, {WINDOWS[window]} ({ours:.3f} against {none:.3f})")
    n, right, wrong = (int(runs[c].sum()) for c in ("n_apart", "right", "wrong"))
    pulses = runs[runs["window"] == "pulse"]
    return pd.DataFrame(rows), (
        f"Farther from the truth than no change with the true shares: {'; '.join(lost) or 'nowhere'}. Told that the gene is held "
        f"for good, the twin is {pulses['tv_of_whole'].mean():.3f} from the truth of the pulses, told of the pulses "
        f"{pulses['tv'].mean():.3f}. Of {n} shares that a pulse truly leaves more than 0.05 apart from a clamp that lasts, it "
        f"gives the direction for {right}, the opposite for {wrong}, and none for the others.\n"
    )


def size(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Seconds and peak memory of every step at every size, and what the steps after the simulation of the course take together."""
    parts = {}
    for cells, mine in rows.groupby("cells"):
        mine = mine.set_index("step")
        for column, name in (("cpu_s", "CPU (s)"), ("wall_s", "wall (s)")):
            parts[f"{cells:,} cells, {name}"] = mine[column].map("{:.0f}".format)
        parts[f"{cells:,}, peak (GB)"] = mine["peak_gb"].map("{:.1f}".format)
    shown = pd.DataFrame(parts).reindex(rows["step"].drop_duplicates()).fillna("").reset_index(names="step")
    told = []
    for cells, mine in rows[rows["step"] != "course"].groupby("cells"):
        said = f"{mine['cpu_s'].sum():.0f} s of CPU time, {mine['wall_s'].sum():.0f} s by the clock"
        told.append(f"{cells:,} cells: {said}, {mine['peak_gb'].max():.1f} GB at most")
    return shown, f"From the counts to both simulations, {'; '.join(told)}.\n"

"""Every public function on data as users bring them: it works, or it refuses with an error that we raise ourselves.

``python tests/fuzz_inputs.py --cases 2000`` draws so many cases, prints what came out, and fails on anything else:
an exception of another library, one that no ``raise`` of ours made, one without a message, slots that a refused call
left behind, slots that a file does not hold, an embedding that is not finite, a warning of numpy from our code.
"""

import argparse
import collections
import linecache
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
from hostile_data import Pick, make_mudata, often

import mmopt as mm
from mmopt._compat import override_pull_on_update

PACKAGE = str(Path(mm.__file__).parent)
QUIET = {"accelerator": "cpu", "progress_bar": False}
OURS = (ValueError, KeyError, TypeError)  # NonFiniteLossError is a ValueError
CALLS: dict[str, Callable] = {}
LABELS, ODD_LABELS = (None, "perturbation"), ("donor", "absent", "rna:donor")


def call(function: Callable) -> Callable:
    """Add a call; it takes a MuData and a function that picks one of several options."""
    CALLS[function.__name__] = function
    return function


def either(pick: Pick, *values: object) -> object:
    """The first value mostly."""
    return often(pick, values[:1], values)


class Reference:
    """A sound data set, its model and its network, made once; calls meet hostile data with them."""

    def __init__(self) -> None:
        rng, n = np.random.default_rng(0), 60
        cells = [f"cell{i}" for i in range(n)]
        state = np.arange(n) % 3
        sizes = {"rna": ("GENE{}", 20), "atac": ("chr1:{}00-{}50", 20), "prot": ("CD{}", 8)}
        mods = {
            m: anndata.AnnData(
                rng.poisson(3 * rng.gamma(1.0, 1.0, (3, k))[state]).astype(np.float32),
                obs=pd.DataFrame(index=cells),
                var=pd.DataFrame(index=[name.format(i, i) for i in range(k)]),
            )
            for m, (name, k) in sizes.items()
        }
        with override_pull_on_update():
            self.mdata = mudata.MuData(mods)
        self.mdata.obs["donor"] = np.where(rng.random(n) < 0.5, "a", "b")
        self.model = mm.tl.integrate(self.mdata, batch_key="donor", n_latent=3, max_epochs=2, **QUIET)
        mm.tl.regulons(self.mdata, regulators=["GENE0", "GENE1", "GENE2"], n_boot=5)


def fit(mdata, pick, **kwargs):
    settings = {
        "batch_key": either(pick, "donor" if "donor" in mdata.obs else None, None, "donor", "absent"),
        "layer": either(pick, None, "counts", "raw", "X"),
        "n_latent": either(pick, 3, 1, 0),
        "max_epochs": either(pick, 1, 2, 0),
        "lr": either(pick, 1e-3, 1e-1, -1.0),
        "batch_size": either(pick, 16, 1, 1000),
        "use_highly_variable": either(pick, None, True, False),
    }
    return mm.tl.integrate(mdata, n_latent=settings.pop("n_latent"), **settings, **QUIET, **kwargs)


@call
def prepare(mdata, pick):
    mm.pp.prepare(
        mdata,
        batch_key=often(pick, LABELS, ODD_LABELS),
        layer=either(pick, None, "counts", "raw"),
        n_top_genes=either(pick, 2, None, 2000, 0),
        n_top_peaks=either(pick, 2, None, 1),
        min_cells=either(pick, 1, 3, 0),
        keep=either(pick, (), "GENE1", ["rna:GENE1"], ["nothing"]),
        copy=pick([True, False]),
    )


@call
def prepare_and_integrate(mdata, pick):
    mm.pp.prepare(mdata, min_cells=1, n_top_genes=3)
    fit(mdata, pick)


@call
def integrate(mdata, pick):
    model = fit(mdata, pick, key_added=either(pick, "X_mmopt", "mine"))
    for name in ("X_mmopt", "mine"):
        if name in mdata.obsm:
            assert np.isfinite(mdata.obsm[name]).all(), "the embedding is not finite"
    mm.pl.loss_curves(
        mdata, key=either(pick, "X_mmopt" if "X_mmopt" in mdata.obsm else "mine", "none"), show=False
    )
    mm.pl.modality_weights(mdata, often(pick, LABELS, ODD_LABELS), show=False)
    return model


@call
def answers(mdata, pick):
    ask(fit(mdata, pick), None, pick)


@call
def answers_of_the_reference(mdata, pick, reference):
    ask(reference.model, mdata, pick)


def ask(model, mdata, pick):
    given = either(pick, None, "rna", ("rna", "prot"), (), "none")
    indices = either(pick, None, [0, 1], [], [10**6], [-1])
    model.get_latent_representation(mdata, given=given, indices=indices)
    model.get_modality_weights(mdata, indices=indices)
    modality = pick(["rna", "atac", "prot"])
    model.get_normalized(
        modality,
        given,
        mdata=mdata,
        indices=indices,
        n_samples=either(pick, 1, 2, 0),
        library_size=either(pick, "latent", "latent", 1e4, 0, "size"),
        transform_batch=either(pick, None, "a", "none"),
        interval=either(pick, None, 0.9, 1.5),
    )
    model.get_predictive_interval(modality, given, mdata=mdata, n_samples=either(pick, 4, 0))
    model.posterior_predictive_sample(mdata, modality=modality, given=given)
    model.get_elbo(mdata)
    model.get_reconstruction_error(mdata)


@call
def save_and_load(mdata, pick):
    model = fit(mdata, pick)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save(path)
        again = mm.models.TriVI.load(path, mdata, accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


@call
def query(mdata, pick, reference):
    if pick([True, False]):
        mdata = mm.models.TriVI.prepare_query_mudata(
            mdata, reference.model, min_shared=either(pick, 0.1, 0.8)
        )
    model = mm.models.TriVI.load_query_data(
        mdata, reference.model, unfrozen=pick([True, False]), accelerator="cpu"
    )
    model.get_latent_representation()
    model.train(1, **QUIET)


@call
def compare_optimizers(mdata, pick):
    mm.tl.compare_optimizers(
        mdata,
        either(pick, ("adam",), ("adam", "asgdadam"), (), ("none",)),
        lr_grid=either(pick, (1e-3,), (10.0,), ()),
        seeds=either(pick, (0,), (0, 1), ()),
        label_key=often(pick, LABELS, ODD_LABELS),
        batch_key=often(pick, LABELS, ODD_LABELS),
        max_epochs=either(pick, 1, 0),
        model_kwargs={"n_latent": 2},
        **QUIET,
    )
    mm.pl.optimizer_comparison(mdata, show=False)


@call
def landscape(mdata, pick):
    surface(mdata, fit(mdata, pick), pick)


@call
def landscape_of_the_reference(mdata, pick, reference):
    surface(mdata, reference.model, pick)


def surface(mdata, model, pick):
    mm.tl.landscape(
        mdata,
        model,
        directions=either(pick, "random", "hessian", "none"),
        n_dimensions=either(pick, 2, 1, 3),
        n_points=either(pick, 3, 2),
        n_repeats=either(pick, 2, 0),
        n_cells=either(pick, 10, 1, 0),
        span=either(pick, 0.5, 1e9, 0),
        progress_bar=False,
    )
    mm.pl.landscape(
        mdata, modality=either(pick, None, "rna", "none"), kind=either(pick, None, "line", "none"), show=False
    )


@call
def curvature(mdata, pick):
    mm.tl.curvature(
        mdata, fit(mdata, pick), k=1, n_probes=2, n_noise=1, rho=either(pick, 0.1, 0), progress_bar=False
    )


@call
def curvature_of_the_reference(mdata, pick, reference):
    mm.tl.curvature(mdata, reference.model, k=1, n_probes=2, n_noise=1, n_cells=5, progress_bar=False)


def network(mdata, pick):
    prior = either(
        pick,
        pd.DataFrame({"source": ["GENE0", "GENE1"], "target": ["GENE1", "GENE2"], "weight": [1, -1]}),
        None,
        pd.DataFrame({"source": ["none"], "target": ["GENE1"]}),
        pd.DataFrame({"source": [], "target": []}),
        pd.DataFrame({"source": ["GENE0", None], "target": ["GENE1", "GENE2"], "weight": [np.nan, np.inf]}),
    )
    mm.tl.regulons(
        mdata,
        prior,
        regulators=either(pick, None, ["GENE0"], [], ["none"]),
        donor_key=often(pick, LABELS, ODD_LABELS),
        n_neighbors=either(pick, 5, 30, 1),
        unspliced=either(pick, None, "counts", "raw"),
        n_boot=5,
    )


@call
def regulons(mdata, pick):
    network(mdata, pick)


def with_network(mdata, pick, reference):
    """A network of the data, or that of the reference beside data that it may not fit."""
    if pick([True, False]):
        network(mdata, pick)
    else:
        mdata.uns["regulons"] = reference.mdata.uns["regulons"]


@call
def perturb(mdata, pick, reference):
    with_network(mdata, pick, reference)
    what = either(
        pick,
        "GENE0",
        "GENE1",
        ["GENE0", "GENE1"],
        {"GENE0": "2x"},
        ("GENE0", "overexpress"),
        "CD1",
        "chr1:100-150",
        3,
    )
    mm.tl.perturb(
        mdata,
        what,
        model=either(pick, None, reference.model),
        mode=either(pick, "knockout", "overexpress", "block", "set", "none"),
        groupby=often(pick, LABELS, ODD_LABELS),
        cells=either(pick, None, ["cell1"], ["none"], []),
        n_null=5,
        copy=pick([True, False]),
    )
    mm.pl.perturbation(mdata, group=either(pick, "all", "a", "none"), show=False)


@call
def screen(mdata, pick, reference):
    with_network(mdata, pick, reference)
    mm.tl.screen(
        mdata,
        either(pick, "regulators", ["GENE0"], ["none"], [], "none"),
        groupby=often(pick, LABELS, ODD_LABELS),
        order=either(pick, 1, 2),
        n_top=either(pick, None, 3, 0),
        progress_bar=False,
    )
    mm.pl.screen(mdata, group=either(pick, "all", "a"), show=False)


@call
def evaluate_perturbation(mdata, pick):
    genes = [f"GENE{i}" for i in range(20)]
    table = pd.DataFrame(
        {
            "perturbation": np.repeat(["GENE0+GENE1", "GENE1_knockout"], 20),
            "feature": genes * 2,
            "delta": np.random.default_rng(0).normal(size=40),
        }
    )
    mm.tl.evaluate_perturbation(
        mdata,
        either(pick, table, table[:0], table.assign(delta=np.nan), table.drop(columns="delta")),
        either(pick, None, table, table[:0]),
        modality=either(pick, "rna", "prot", "none"),
        perturbation_key=either(pick, "perturbation", "donor", "absent"),
        control=either(pick, None, "NT", "none"),
    )


@call
def reprogram(mdata, pick, reference):
    with_network(mdata, pick, reference)
    mm.tl.reprogram(
        mdata,
        either(pick, "NT", "a", "none", {"GENE1": 1.0}, ["cell1"], 3),
        either(pick, "GENE0", "b", {"GENE1": 2.0}, {}, ["none"]),
        groupby=often(pick, ("perturbation",), (*LABELS, *ODD_LABELS)),
        max_factors=either(pick, 1, 2, 0),
        n_starts=1,
        n_evaluations=2,
        n_null=19,
    )
    mm.pl.reprogram(mdata, show=False)


@call
def twin(mdata, pick, reference):
    rng, n = np.random.default_rng(0), mdata.n_obs
    mdata.obsm["X_any"] = rng.normal(size=(n, 2)) + (np.arange(n) % 3)[:, None]
    mdata.obs["day"] = either(
        pick, np.arange(n) % 3, np.zeros(n), np.full(n, np.nan), np.arange(n), ["?"] * n
    )
    course = {
        "time_key": either(pick, "day", "absent", "donor"),
        "use_rep": either(pick, "X_any", None, "none"),
    }
    mm.tl.twin(mdata, **course, least_cells=either(pick, 2, 50), n_steps=2, progress_bar=False)
    mm.tl.transitions(mdata)
    if pick([True, False]):
        with_network(mdata, pick, reference)
    mm.tl.simulate(
        mdata,
        start=either(pick, {"day": 0}, {"day": 7}, {}, "day", ["none"]),
        interventions=either(
            pick, None, [("GENE0", "knockout")], [("GENE0", "knockout", 2, 1)], ["GENE0"], 3
        ),
        terminal_key=often(pick, LABELS, ODD_LABELS),
        n_cells=20,
        n_times=2,
        progress_bar=False,
    )
    mm.pl.trajectories(mdata, show=False)
    mm.pl.fates(mdata, show=False)
    mm.pl.dynamics(mdata, either(pick, ["GENE1"], ["none"], []), show=False)
    mm.pl.quasi_potential(mdata, show=False)


@call
def evaluate_twin(mdata, pick):
    n = mdata.n_obs
    mdata.obsm["X_any"] = np.random.default_rng(0).normal(size=(n, 2)) + (np.arange(n) % 3)[:, None]
    mdata.obs["day"] = np.arange(n) % 3
    mm.tl.evaluate_twin(
        mdata, time_key="day", use_rep="X_any", n_steps=2, least_cells=either(pick, 2, 50), progress_bar=False
    )


@call
def plots_of_slots_that_are_wrong(mdata, pick):
    slot = pick([{}, "text", {"params": {}}, {"history": pd.DataFrame(), "params": {}}, np.zeros(3)])
    name = pick(
        ["loss_curves", "landscape", "optimizer_comparison", "perturbation", "screen", "modality_weights"]
        + ["reprogram", "perturbation_embedding", "trajectories", "fates", "dynamics", "quasi_potential"]
    )
    for key in ("mmopt", "landscape", "optimizer_comparison", "perturb", "screen", "reprogram", "simulate"):
        mdata.uns[key] = slot
    mdata.uns["twin"] = slot
    more = (["GENE0"],) if name == "dynamics" else ()
    getattr(mm.pl, name)(mdata, *more, show=False)


def ours(error: BaseException) -> bool:
    """Whether a ``raise`` of ours made it, of a kind that names what the user did, with a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raised = linecache.getline(frame.filename, frame.lineno).strip().startswith("raise ")
    return isinstance(error, OURS) and frame.filename.startswith(PACKAGE) and raised and len(str(error)) > 20


def place(error: BaseException) -> str:
    """Deepest line of ours that an error came through."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    ours = [
        f"{Path(f.filename).relative_to(PACKAGE)}:{f.lineno}"
        for f in frames
        if f.filename.startswith(PACKAGE)
    ]
    return ours[-1] if ours else ""


def slots(mdata) -> set[str]:
    """Names of what is stored."""
    found = {
        f"{part}[{key}]"
        for part in ("uns", "obsm", "obs")
        for key in getattr(mdata, part)
        if "_scvi" not in key
    }
    return found | {
        f"{m}.{part}[{key}]"
        for m, a in mdata.mod.items()
        for part in ("var", "layers")
        for key in getattr(a, part)
    }


def check(name: str, mdata: mudata.MuData, pick: Pick, reference: Reference) -> tuple[str, str]:
    """Make one call: ``"worked"`` or ``"refused"``, and where it was refused; raises ``AssertionError`` about anything else."""
    function = CALLS[name]
    more = (
        (reference,) if "reference" in function.__code__.co_varnames[: function.__code__.co_argcount] else ()
    )
    before = slots(mdata)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            function(mdata, pick, *more)
            outcome, where = "worked", ""
        except OURS as error:
            if not ours(error):
                raise AssertionError(f"{name}: {type(error).__name__} that is not ours: {error}") from error
            outcome, where = "refused", place(error)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        finally:
            plt.close("all")
    numpy_s = [w for w in seen if issubclass(w.category, RuntimeWarning) and w.filename.startswith(PACKAGE)]
    if numpy_s:
        raise AssertionError(f"{name}: {numpy_s[0].filename}:{numpy_s[0].lineno} warns: {numpy_s[0].message}")
    after = slots(mdata) - before
    if (
        outcome == "refused"
        and name in ("prepare", "regulons", "evaluate_perturbation", "compare_optimizers")
        and after
    ):
        raise AssertionError(f"{name}: refused, but left {sorted(after)}")
    if outcome == "worked":
        assert_writable(mdata, name)
    return outcome, where


def assert_writable(mdata, name: str) -> None:
    """Refuse slots that a file does not hold."""
    if name == "plots_of_slots_that_are_wrong":
        return
    try:
        anndata.AnnData(np.zeros((1, 1)), uns=dict(mdata.uns)).write_h5ad(
            io_path := Path(tempfile.mktemp(".h5ad"))
        )
        io_path.unlink()
    except Exception as error:
        raise AssertionError(f"{name}: the slots cannot be written: {error}") from error


def case(number: int, reference: Reference, folder: Path, only: str | None = None) -> tuple:
    """Make case ``number``: its call, the outcome, the failure or ``None``, and where it was refused."""
    rng = np.random.default_rng(number)

    def pick(options):
        return options[rng.integers(len(options))]

    name = only or pick(list(CALLS))
    mdata = make_mudata(pick, folder)
    try:
        outcome, where = check(name, mdata, pick, reference)
        return name, outcome, None, where
    except AssertionError as failure:
        return name, "failed", failure, ""
    finally:
        if mdata.isbacked:
            mdata.file.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*CALLS])
    arguments = parser.parse_args()
    reference, failures = Reference(), {}
    counts, seconds, refusals = collections.Counter(), collections.Counter(), collections.Counter()
    folder = tempfile.TemporaryDirectory()

    start = time.perf_counter()
    for number in range(arguments.seed, arguments.seed + arguments.cases):
        begun = time.perf_counter()
        name, outcome, failure, where = case(number, reference, Path(folder.name), arguments.only)
        if failure is None:
            refusals[where] += 1
        else:
            failures.setdefault((name, place(failure), type(failure.__cause__).__name__), []).append(
                (number, failure)
            )
        counts[name, outcome] += 1
        seconds[name] += time.perf_counter() - begun
    names = list(dict.fromkeys(name for name, _ in counts))
    print(f"{'call':32}{'worked':>8}{'refused':>9}{'failed':>8}{'s':>7}")
    for name in sorted(names):
        row = [counts[name, outcome] for outcome in ("worked", "refused", "failed")]
        print(f"{name:32}{row[0]:8}{row[1]:9}{row[2]:8}{seconds[name]:7.0f}")
    total = sum(counts.values())
    failed = sum(v for (_, outcome), v in counts.items() if outcome == "failed")
    print(
        f"{total} cases in {time.perf_counter() - start:.0f} s, {failed} failed; refused at {len(refusals) - 1} places"
    )
    for (name, where, kind), found in failures.items():
        print(f"\n{len(found)} × {name} at {where}: {kind}")
        print(*(f"--cases 1 --seed {number}," for number, _ in found[:5]))
        traceback.print_exception(found[0][1].__cause__ or found[0][1], limit=-4)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

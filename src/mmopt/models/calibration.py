"""After training: how deep a modality is where it was not measured, and how far to trust what is decoded there."""

from itertools import combinations

import numpy as np
import torch
from scvi.data import AnnDataManager
from torch import Tensor

from mmopt._random import derived
from mmopt.models.data import MosaicLoader
from mmopt.models.depth import MIN_CELLS
from mmopt.models.module import TriModule, is_frozen
from mmopt.models.mosaic import read_mosaic
from mmopt.models.readout import batch_shares, log_sizes
from mmopt.models.sparse import Csr

# at most so many for each subset of modalities: enough for a few dozen weights, and for one number
FIT_CELLS, HELD_OUT_CELLS = 5000, 1000
STRENGTHS = torch.linspace(0, 1, 11)


@torch.inference_mode()
def calibrate(
    module: TriModule, manager: AnnDataManager, train: np.ndarray, held_out: np.ndarray, seed: int = 0
) -> None:
    """Fit the depths of a trained network for every subset of the other modalities.

    The regressions of the depth see the cells trained on. The strengths of the profiles are those with the highest
    likelihood of held-out cells given their own depth: with early stopping, all that training takes from these. Subsets that no ten cells have together with the modality
    answer as the largest of their parts that has them. Where all but added batches is frozen, only what is said of these
    is learned.

    Parameters
    ----------
    module
        Trained network in evaluation mode.
    manager
        The registered data.
    train, held_out
        Positions of the cells.
    """
    mosaic, frozen = read_mosaic(manager), is_frozen(module)
    for m, depth in module.depths.items():
        rows = mosaic.place[m][train]
        if not (rows >= 0).any():
            continue
        if not frozen:
            depth.reset(
                np.asarray(mosaic.counts[m][np.sort(_some(rows[rows >= 0], FIT_CELLS, seed))].sum(1)).ravel()
            )
        others = [o for o in module.modalities if o != m]
        fitted: list[tuple[str, ...]] = []
        for given in (g for k in range(1, len(others) + 1) for g in combinations(others, k)):
            code = _code(module.modalities, given)
            has = np.all([mosaic.place[o] >= 0 for o in [m, *given]], axis=0)
            cells = _some(train[has[train]], FIT_CELLS, seed)
            if frozen:
                _adjust(module, m, given, code, cells, manager)
            elif len(cells) >= MIN_CELLS:
                depth.fit(code, *_design(module, m, given, MosaicLoader(manager, cells, 512)))
                cells = _some(held_out[has[held_out]], HELD_OUT_CELLS, seed)
                if len(cells) >= MIN_CELLS:
                    depth.strength[code] = _strength(module, m, given, MosaicLoader(manager, cells, 512))
                fitted.append(given)
            elif parts := [f for f in fitted if set(f) < set(given)]:
                depth.copy_subset(code, _code(module.modalities, max(parts, key=len)))


def _code(names: tuple[str, ...], given: tuple[str, ...]) -> int:
    return sum(2**i for i, m in enumerate(names) if m in given)


def _some(cells: np.ndarray, n: int, seed: int) -> np.ndarray:
    if len(cells) <= n:
        return cells
    return np.sort(np.random.default_rng(derived(seed, 2)).choice(cells, n, replace=False))


def _adjust(
    module: TriModule,
    modality: str,
    given: tuple[str, ...],
    code: int,
    cells: np.ndarray,
    manager: AnnDataManager,
) -> None:
    """Let each added batch have its own mean depth, drawn towards the prediction as if ten cells had confirmed it."""
    depth, first = module.depths[modality], module.n_batch - module.n_added_batches
    cells = cells[read_mosaic(manager).batch[cells] >= first]
    if not len(cells):
        return
    x, totals = _design(module, modality, given, MosaicLoader(manager, cells, 512))
    weight = depth.weight[code].double().cpu().numpy()
    left = np.log(np.maximum(totals, 1)) - x @ weight - float(depth.intercept[code])
    for b in range(module.n_added_batches):
        mine = x[:, x.shape[1] - module.n_added_batches + b] == 1
        depth.weight[code, depth.weight.shape[1] - module.n_added_batches + b] += float(
            left[mine].sum() / (mine.sum() + MIN_CELLS)
        )


def _hear(module: TriModule, given: tuple[str, ...], tensors: dict[str, Tensor]) -> dict:
    return module.inference(tensors, given=given, noise=torch.zeros(1))


def _design(
    module: TriModule, modality: str, given: tuple[str, ...], loader: MosaicLoader
) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of the regression, and the true totals."""
    inputs, totals = [], []
    for tensors in loader:
        posterior = _hear(module, given, tensors)
        z = posterior["qz"].loc
        shares = batch_shares(getattr(module, f"measured_{modality}"), tensors["batch"].to(z.device))
        inputs.append(torch.cat([z, log_sizes(module, tensors, posterior["present"]), shares], 1))
        totals.append(tensors[modality].totals())
    return torch.cat(inputs).double().cpu().numpy(), torch.cat(totals).double().cpu().numpy()


def _strength(module: TriModule, modality: str, given: tuple[str, ...], loader: MosaicLoader) -> float:
    score = torch.zeros(len(STRENGTHS))
    decoder, profile = module.decoders[modality], getattr(module, f"log_profile_{modality}")
    for tensors in loader:
        z = _hear(module, given, tensors)["qz"].loc
        counts = Csr(*(t.to(z.device) for t in tensors[modality]))
        state = module._decode(modality, z, tensors["batch"].to(z.device), lean=True)
        for i, strength in enumerate(STRENGTHS.tolist()):
            score[i] += decoder.log_likelihood_towards(profile, strength, state, counts).sum().cpu()
    return float(STRENGTHS[score.argmax()])

"""Curvature of a loss at a fit: Hessian-vector products, the top of the spectrum and the trace."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from mmopt._progress import progress
from mmopt.curvature.parameters import LossFn, Params, flatten, leaves, losses, unflatten


class Hessian:
    """Hessian of ``loss_fn(params)["loss"]`` as an operator on flat float64 vectors, reverse over reverse.

    The gradient's graph is built once and kept: a product costs one backward pass through it, not a new forward.

    Parameters
    ----------
    loss_fn
        Deterministic map from parameters to a dict of 0-d losses, the total under ``"loss"``.
    params
        Named parameters; not modified, their ``.grad`` not touched.

    Attributes
    ----------
    n_forwards, n_products
        Work done so far. Building counts one forward (and one gradient).

    Examples
    --------
    >>> import numpy as np, torch
    >>> hessian = Hessian(lambda p: {"loss": p["w"][0] ** 2 * p["w"][1]}, {"w": torch.tensor([1.0, 3.0])})
    >>> hessian @ np.array([1.0, 0.0])
    array([6., 2.])
    """

    def __init__(self, loss_fn: LossFn, params: Mapping[str, Tensor]) -> None:
        self._leaves = leaves(params)
        self.size = sum(p.numel() for p in params.values())
        self.n_forwards, self.n_products = 1, 0
        with torch.enable_grad():
            loss = losses(loss_fn, self._leaves)["loss"]
            if not loss.requires_grad:
                raise ValueError(
                    "the loss does not depend on the parameters it was given; build loss_fn with "
                    "`torch.func.functional_call`, without `no_grad` or `detach`"
                )
            self._gradient = torch.autograd.grad(
                loss, list(self._leaves.values()), create_graph=True, materialize_grads=True
            )

    def __matmul__(self, vector: np.ndarray) -> np.ndarray:
        """Return ``H @ vector``, ``(n_parameters,)``.

        Raises
        ------
        ValueError
            If the product is not finite.
        """
        self.n_products += 1
        pieces = unflatten(np.asarray(vector, float).ravel(), self._leaves).values()
        # parameters in which the loss is linear have a constant gradient: no graph, no curvature
        curved = [(g, v) for g, v in zip(self._gradient, pieces, strict=True) if g.requires_grad]
        if not curved:
            return np.zeros(self.size)
        gradient, along = zip(*curved, strict=True)
        product = torch.autograd.grad(
            gradient, list(self._leaves.values()), along, retain_graph=True, materialize_grads=True
        )
        flat = flatten(dict(zip(self._leaves, product, strict=True)))
        if not np.isfinite(flat).all():
            bad = [name for name, h in zip(self._leaves, product, strict=True) if not h.isfinite().all()]
            raise ValueError(
                f"the Hessian is not finite in {bad}: the fit is degenerate there, or needs float64"
            )
        return flat


@dataclass(frozen=True)
class Eigenpairs:
    """Part of the spectrum of a Hessian.

    Attributes
    ----------
    eigenvalues
        ``(k,)``, the largest first.
    residuals
        ``(k,)`` norms of ``H v - eigenvalue * v`` for the unit eigenvectors, from fresh products: an eigenvalue of
        the Hessian lies within this distance of the one reported.
    directions
        Unit eigenvectors as parameters, for :func:`slice_1d` and :func:`slice_2d`.
    n_forwards, n_hvps
        Work done.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    directions: list[Params]
    n_forwards: int
    n_hvps: int


def top_eigenvalues(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    k: int = 1,
    *,
    which: Literal["LA", "SA", "LM"] = "LA",
    shift: float = 0.0,
    tol: float = 1e-4,
    max_restarts: int = 100,
    random_state: int = 0,
    show_progress: bool = False,
) -> Eigenpairs:
    """Eigenvalues of the Hessian by restarted Lanczos with full re-orthogonalisation (ARPACK through scipy).

    Parameters
    ----------
    loss_fn, params
        As in :class:`Hessian`.
    k
        How many eigenvalues, fewer than there are parameters.
    which
        ``"LA"``: the largest; ``"SA"``: the smallest (negative ones show that the fit is not a minimum);
        ``"LM"``: the largest in absolute value.
    shift
        The iteration works with ``H - shift * I``. The smallest eigenvalues of a network crowd around zero, where an
        accuracy relative to themselves is out of reach: give the largest eigenvalue here, and it is relative to the
        width of the spectrum.
    tol
        Accuracy at which the iteration stops, relative to the eigenvalue's distance from ``shift``. float32 parameters
        do not go below about 1e-6.
    max_restarts
        Restarts of at most ``max(2 * k + 1, 20)`` products each.
    random_state
        Seed of the starting vector.
    show_progress
        Show a running count of products.

    Returns
    -------
    Eigenvalues, residual norms, unit eigenvectors and the work done. The memory is that of ``max(2 * k + 1, 20)``
    float64 copies of the parameters.

    Raises
    ------
    ValueError
        If ``k`` is out of range, or the Hessian is zero or not finite.
    RuntimeError
        If fewer than ``k`` eigenvalues converged.

    References
    ----------
    Lehoucq, Sorensen and Yang, *ARPACK Users' Guide*, SIAM 1998;
    Ghorbani, Krishnan and Xiao, *An Investigation into Neural Net Optimization via Hessian Eigenvalue Density*,
    ICML 2019.

    Examples
    --------
    >>> import torch
    >>> scale = torch.tensor([1.0, 2.0, 5.0])
    >>> top_eigenvalues(lambda p: {"loss": (scale * p["w"] ** 2).sum()}, {"w": torch.zeros(3)}).eigenvalues.round(4)
    array([10.])
    """
    hessian = Hessian(loss_fn, params)
    if which not in ("LA", "SA", "LM"):
        raise ValueError(f"which={which!r} is not known; choose 'LA', 'SA' or 'LM'")
    if not 1 <= k < hessian.size:
        raise ValueError(
            f"k must be between 1 and {hessian.size - 1} for {hessian.size} parameters; got {k}."
        )
    rng = np.random.default_rng(random_state)
    start = rng.standard_normal(hessian.size)
    # scipy >= 1.17 draws new starting vectors from fresh entropy where the Krylov space ends early
    seeded = {"rng": rng} if "rng" in inspect.signature(eigsh).parameters else {}
    zero = "the Hessian is zero: the loss is linear around these parameters"
    ticks = progress(count(), "Hessian-vector products", show=show_progress)

    def product(vector: np.ndarray) -> np.ndarray:
        next(ticks)
        return hessian @ vector - shift * np.ravel(vector)

    try:
        found, vectors = eigsh(
            LinearOperator((hessian.size, hessian.size), matvec=product, dtype=np.float64),
            k=k,
            which=which,
            tol=tol,
            maxiter=max_restarts,
            v0=start,
            **seeded,
        )
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"{len(error.eigenvalues)} of {k} eigenvalues converged in {hessian.n_products} products: "
            "raise `max_restarts` or `tol`, or ask for fewer"
        ) from error
    except ArpackError as error:
        if shift or (hessian @ start).any():
            raise
        raise ValueError(zero) from error
    if not (shift or found.any() or (hessian @ start).any()):  # older scipy returns any vectors
        raise ValueError(zero)
    order = np.argsort(-found)
    eigenvalues, vectors = found[order] + shift, vectors[:, order]
    residuals = [
        np.linalg.norm(hessian @ v - value * v) for value, v in zip(eigenvalues, vectors.T, strict=True)
    ]
    # the sign of an eigenvector is arbitrary: make its largest entry positive
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(k)])
    return Eigenpairs(
        eigenvalues=eigenvalues,
        residuals=np.array(residuals),
        directions=[unflatten(v, params) for v in (vectors * signs).T],
        n_forwards=hessian.n_forwards,
        n_hvps=hessian.n_products,
    )


def trace(
    loss_fn: LossFn,
    params: Mapping[str, Tensor],
    n: int = 32,
    *,
    random_state: int = 0,
    show_progress: bool = False,
) -> dict[str, float]:
    """Trace of the Hessian from ``n`` random sign vectors (Hutchinson's estimator).

    Parameters
    ----------
    loss_fn, params
        As in :class:`Hessian`.
    n
        Probes, at least 2. A diagonal Hessian needs no more than that: every probe is exact.
    random_state
        Seed.
    show_progress
        Show a bar.

    Returns
    -------
    ``{"trace", "standard_error", "n_forwards", "n_hvps"}``

    References
    ----------
    Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines*,
    Communications in Statistics 1990.

    Examples
    --------
    >>> import torch
    >>> trace(lambda p: {"loss": (p["w"] ** 2).sum()}, {"w": torch.ones(3)}, n=2)["trace"]
    6.0
    """
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 probes; got n={n}")
    hessian, rng = Hessian(loss_fn, params), np.random.default_rng(random_state)
    samples = []
    for _ in progress(range(n), "trace of the Hessian", show=show_progress):
        signs = rng.choice((-1.0, 1.0), hessian.size)
        samples.append(float(signs @ (hessian @ signs)))
    return {
        "trace": float(np.mean(samples)),
        "standard_error": float(np.std(samples, ddof=1) / np.sqrt(n)),
        "n_forwards": hessian.n_forwards,
        "n_hvps": hessian.n_products,
    }

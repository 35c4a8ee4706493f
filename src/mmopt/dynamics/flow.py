"""Conditional flow matching: the velocity and the score of cells on their way from one time point to the next."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import nn

from mmopt._threads import sensible_threads
from mmopt.dynamics.integration import euler_maruyama, rk4

# noise of the bridge between two coupled cells, in units of the standardised embedding
SIGMA = 0.2
_MOST_NOISE = 2.0  # of a standard normal mean: beyond it the network extrapolates
_AVERAGED = 0.3  # last share of the training whose weights are averaged
_PAIRS = 256  # in a step of the training
_EDGE = 0.03  # of an interval: nearer to an observed time point the score of a bridge has no bound


class Field(nn.Module):
    """Velocity and noise direction at a state and a time, ``(n, d)`` and ``(n,)`` to two times ``(n, d)``."""

    def __init__(self, n_dims: int, n_hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_dims + 3, n_hidden),
            nn.SiLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.SiLU(),
            nn.Linear(n_hidden, 2 * n_dims),
        )

    def forward(self, state: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocity per unit of scaled time, and expected noise of the bridge."""
        clock = torch.stack([time, torch.sin(torch.pi * time), torch.cos(torch.pi * time)], dim=1)
        return self.layers(torch.cat([state, clock], dim=1)).chunk(2, dim=1)


@dataclass(frozen=True, eq=False)
class Flow:
    """One member of a twin: a fitted field and the scales it lives on.

    Parameters
    ----------
    field
        The network.
    times
        ``(n_times,)`` observed time points.
    centre, scale
        ``(d,)`` and number: the embedding is standardised by one scale for all dimensions.
    fastest
        No cell moves faster: largest mean speed of a coupled pair, in scaled units. Away from the data a network knows no bound.
    """

    field: Field
    times: np.ndarray
    centre: np.ndarray
    scale: float
    fastest: float

    def run(
        self, states: np.ndarray, times: np.ndarray, *, stochastic: bool = False, seed: int = 0
    ) -> np.ndarray:
        """Follow cells along the flow.

        Parameters
        ----------
        states
            ``(n, d)`` at ``times[0]``.
        times
            ``(n_times,)`` when they are wanted, in the units of the data.
        stochastic
            Add the noise of the bridge, with the drift that keeps the distribution at each time the same.
        seed
            Of the noise.

        Returns
        -------
        numpy.ndarray
            ``(n_times, n, d)``.
        """
        span = self.times[-1] - self.times[0]
        clock = (np.asarray(times, dtype=float) - self.times[0]) / span
        knots = (self.times - self.times[0]) / span
        state = torch.as_tensor((states - self.centre) / self.scale, dtype=torch.float32)

        def interval(t: float) -> tuple[float, float]:
            """Share of the interval that has passed, and its length."""
            i = int(np.clip(np.searchsorted(knots, t, side="right") - 1, 0, len(knots) - 2))
            width = knots[i + 1] - knots[i]
            return float(np.clip((t - knots[i]) / width, _EDGE, 1 - _EDGE)), float(width)

        def drift(x: torch.Tensor, t: float) -> torch.Tensor:
            velocity, noise = self._bounded(x, torch.full((len(x),), t))
            noise = noise.clamp(-_MOST_NOISE, _MOST_NOISE)
            if not stochastic:
                return velocity
            share, width = interval(t)
            return velocity - noise * (SIGMA / (2 * width * (share * (1 - share)) ** 0.5))

        with torch.no_grad(), sensible_threads(state.numel()):
            if stochastic:
                generator = torch.Generator().manual_seed(seed)
                path = euler_maruyama(
                    drift,
                    lambda t: SIGMA / interval(t)[1] ** 0.5,
                    lambda x: torch.randn(x.shape, generator=generator),
                    state,
                    clock,
                )
            else:
                path = rk4(drift, state, clock)
        return torch.stack(path).double().numpy() * self.scale + self.centre

    def velocity(self, states: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Velocity of cells at ``states`` ``(n, d)``, each at its own time ``(n,)``, per unit of time of the data."""
        span = self.times[-1] - self.times[0]
        state = torch.as_tensor((states - self.centre) / self.scale, dtype=torch.float32)
        clock = torch.as_tensor((times - self.times[0]) / span, dtype=torch.float32)
        with torch.no_grad(), sensible_threads(state.numel()):
            return self._bounded(state, clock)[0].double().numpy() * (self.scale / span)

    def _bounded(self, state: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        velocity, noise = self.field(state, time)
        speed = velocity.norm(dim=1, keepdim=True).clamp_min(1e-9)
        return velocity * (self.fastest / speed).clamp_max(1.0), noise

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that :meth:`from_arrays` needs, as arrays without pickles."""
        weights = {
            name.replace(".", "_"): w.detach().cpu().numpy() for name, w in self.field.state_dict().items()
        }
        return weights | {"centre": self.centre, "scale": np.array([self.scale, self.fastest])}

    @classmethod
    def from_arrays(cls, stored: Mapping[str, np.ndarray], times: np.ndarray) -> "Flow":
        """Rebuild a member from :meth:`arrays`."""
        n_hidden, n_in = np.asarray(stored["layers_0_weight"]).shape
        field = Field(n_in - 3, n_hidden)
        field.load_state_dict(
            {name: torch.as_tensor(np.asarray(stored[name.replace(".", "_")])) for name in field.state_dict()}
        )
        return cls(
            field.eval(),
            np.asarray(times, dtype=float),
            np.asarray(stored["centre"], dtype=float),
            *(float(v) for v in np.ravel(stored["scale"])),
        )


@sensible_threads(0)  # batches are small
def fit_flow(
    states: Sequence[np.ndarray],
    times: np.ndarray,
    couplings: Sequence[sparse.csr_matrix],
    optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
    *,
    n_hidden: int = 128,
    n_steps: int = 2000,
    device: str = "cpu",
    seed: int = 0,
) -> Flow:
    """Fit the velocity of coupled cells: draw a pair, a time in between and a point of the bridge, and regress.

    Parameters
    ----------
    states
        ``(n_t, d)`` cells of each time point.
    times
        ``(n_times,)``, increasing.
    couplings
        Of consecutive time points.
    optimizer
        Builds an optimizer from parameters.
    n_hidden, n_steps, device, seed
        Of the field and its training; global generators are left as they were.

    References
    ----------
    Tong A et al. (2024) Trans. Mach. Learn. Res., for flow matching along optimal couplings, and Tong A et al. (2024)
    AISTATS, for score and flow together.
    """
    times = np.asarray(times, dtype=float)
    every = np.vstack(states)
    centre, scale = every.mean(0), float(max(every.std(0).mean(), 1e-9))
    knots = (times - times[0]) / (times[-1] - times[0])
    cells = [torch.as_tensor((s - centre) / scale, dtype=torch.float32, device=device) for s in states]
    pairs = [sparse.coo_matrix(c) for c in couplings]
    ends = [np.cumsum(p.data) for p in pairs]
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        field = Field(every.shape[1], n_hidden)
    field.to(device)
    optim = optimizer(field.parameters())
    share = knots[1:] - knots[:-1]
    averaged, begin_average = None, int((1 - _AVERAGED) * n_steps)
    for number in range(n_steps):
        counts = rng.multinomial(_PAIRS, share / share.sum())
        start, stop, begin, width = [], [], [], []
        for i, n in enumerate(counts):
            drawn = np.searchsorted(ends[i], rng.random(n) * ends[i][-1], side="right")
            drawn = np.minimum(drawn, len(ends[i]) - 1)
            start.append(cells[i][pairs[i].row[drawn]])
            stop.append(cells[i + 1][pairs[i].col[drawn]])
            begin.append(np.full(n, knots[i]))
            width.append(np.full(n, share[i]))
        x0, x1 = torch.cat(start), torch.cat(stop)
        s = _EDGE + (1 - 2 * _EDGE) * rng.random((len(x0), 1))
        noise = torch.as_tensor(rng.normal(size=tuple(x0.shape)), dtype=torch.float32, device=device)
        h = torch.as_tensor(np.concatenate(width)[:, None], dtype=torch.float32, device=device)
        t = torch.as_tensor(
            np.concatenate(begin)[:, None] + s * h.cpu().numpy(), dtype=torch.float32, device=device
        )
        s = torch.as_tensor(s, dtype=torch.float32, device=device)
        spread = SIGMA * torch.sqrt(s * (1 - s))
        at = (1 - s) * x0 + s * x1 + spread * noise
        # velocity of the conditional path: the straight line, and the bridge that opens and closes
        target = (x1 - x0 + SIGMA * (1 - 2 * s) / (2 * torch.sqrt(s * (1 - s))) * noise) / h
        velocity, expected = field(at, t[:, 0])
        # in units of the interval, so that a short one does not outweigh the others
        loss = ((velocity - target) * h).square().mean() + SIGMA**2 * (expected - noise).square().mean()
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        if number >= begin_average:
            with torch.no_grad():
                now = [p.detach().clone() for p in field.parameters()]
                averaged = now if averaged is None else averaged
                for mean, p in zip(averaged, now, strict=True):
                    mean += (p - mean) / (number - begin_average + 1)
    with torch.no_grad():
        for p, mean in zip(field.parameters(), averaged, strict=True):
            p.copy_(mean)
    fastest = max(
        float((cells[i][p.row] - cells[i + 1][p.col]).norm(dim=1).max()) / share[i]
        for i, p in enumerate(pairs)
    )
    return Flow(field.cpu().eval(), times, centre, scale, fastest)

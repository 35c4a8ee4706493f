"""What a step of ASGDAdam costs, and that the sampled vote which makes it cheap decides like the full one.

    python benchmarks/optimizers/step_cost.py [--data FILE.h5mu] [--runs 5] [--seeds 3]

Cost: process CPU time of one thread; each optimizer takes turns with torch's fused Adam, step by step, so that a busy
machine slows both alike, and every ratio is that of two neighbouring measurements. Quality: an autoencoder of several million parameters is trained
on counts (simulated, or those of FILE); at every step the sampled vote is compared with that of all coordinates, and
trainings that listen to one or the other are compared by their held-out loss. Writes step_cost.md and step_cost.csv
beside this file.
"""

import argparse
import csv
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmopt.optim import ASGDAdam, ASGDAMSGrad, Padam
from mmopt.optim.agreement import agreement
from mmopt.optim.averaging import accumulator

ALL = 2**62
SETTLED = 51  # steps after which a rate is decided on once a window only
HERE = Path(__file__).resolve().parent
# encoder and decoder of two hidden layers: parameters, shapes
SIZES = {
    "24 thousand": [(64, 180), (64,), (40, 64), (40,), (64, 20), (64,), (120, 64), (120,)],
    "1.3 million": [(128, 5000), (128,), (40, 128), (40,), (128, 20), (128,), (5000, 128), (5000,)],
    "10 million": [(256, 20000), (256,), (40, 256), (40,), (256, 20), (256,), (19000, 256), (19000,)],
}


class FullPass(ASGDAdam):
    """The vote of all coordinates as one more pass over gradients and momenta, in torch's multi-tensor operations."""

    def _vote(self, params: list[Tensor], group: dict[str, Any]) -> Tensor:
        votes = torch._foreach_mul([p.grad for p in params], [self.state[p]["exp_avg"] for p in params])
        torch._foreach_sign_(votes)
        total = torch.stack([v.sum() for v in votes]).sum()
        return torch.stack([total / sum(v.numel() for v in votes), torch.ones(())])


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch Adam, fused": lambda p: torch.optim.Adam(p, fused=True),
    "torch Adam, foreach": lambda p: torch.optim.Adam(p, foreach=True),
    "torch Adam, for-loop": lambda p: torch.optim.Adam(p, foreach=False),
    "torch AMSGrad, fused": lambda p: torch.optim.Adam(p, amsgrad=True, fused=True),
    "ASGDAdam": ASGDAdam,
    "ASGDAdam, capturable": lambda p: ASGDAdam(p, capturable=True),
    "ASGDAdam, rule none": lambda p: ASGDAdam(p, switch_rule="none"),
    "ASGDAdam, full pass": FullPass,
    "ASGDAMSGrad": ASGDAMSGrad,
    "Padam": Padam,
}
REFERENCE = "torch Adam, fused"
REFERENCES = {"ASGDAMSGrad": "torch AMSGrad, fused"}  # of all others it is torch's fused Adam


def cost(name: str, shapes: list[tuple[int, ...]], repeats: int) -> tuple[float, float]:
    """Median milliseconds per step of an optimizer, and its median ratio to its reference.

    The two take turns on the same parameters, gradients and moments: where these happen to lie in memory, and what a
    third optimizer left there to be given back, would change the time of a step by more than what is measured.
    """
    torch.manual_seed(0)
    parameters = [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn_like(p)
    complete = OPTIMIZERS["torch AMSGrad, fused"](parameters)
    complete.step()  # makes all the state that any of them needs
    for p in parameters:
        complete.state[p]["average"] = accumulator(p)
    pair = [OPTIMIZERS[REFERENCES.get(name, REFERENCE)](parameters), OPTIMIZERS[name](parameters)]
    for optimizer in pair:
        optimizer.state = complete.state
        for _ in range(SETTLED):
            optimizer.step()
    inner = 10  # whole windows: one step of ten decides, and one enters the average
    times = []
    for _ in range(repeats):
        for optimizer in pair:
            start = time.process_time()
            for _ in range(inner):
                optimizer.step()
            times.append((time.process_time() - start) / inner * 1e3)
    return statistics.median(times[1::2]), statistics.median(
        b / a for a, b in zip(times[::2], times[1::2], strict=True)
    )


def counts(file: Path | None) -> Tensor:
    """Cells by features: all modalities of a file side by side, or counts simulated from ten factors."""
    if file is None:
        generator = torch.Generator().manual_seed(0)
        factors, loadings = (
            torch.randn(1200, 10, generator=generator),
            torch.randn(10, 8000, generator=generator),
        )
        return torch.poisson((0.4 * factors @ loadings - 1).exp(), generator=generator)
    import mudata

    modalities = mudata.read_h5mu(file).mod.values()
    dense = [
        np.asarray(m.X.todense() if hasattr(m.X, "todense") else m.X, dtype=np.float32) for m in modalities
    ]
    return torch.from_numpy(np.concatenate(dense, axis=1))


class Autoencoder(nn.Module):
    """Variational autoencoder of counts, negative binomial."""

    def __init__(self, features: int, hidden: int = 256, latent: int = 20):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(features, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, features)
        )
        self.log_theta = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x.log1p()).chunk(2, dim=1)
        rate = (
            self.decoder(mean + noise * (log_variance / 2).exp()).softmax(1) * x.sum(1, keepdim=True) + 1e-6
        )
        theta = self.log_theta.exp()
        log_likelihood = (
            torch.lgamma(x + theta)
            - torch.lgamma(theta)
            - torch.lgamma(x + 1)
            + theta * (theta / (theta + rate)).log()
            + x * (rate / (theta + rate)).log()
        )
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1)
        return (divergence.sum(1) - log_likelihood.sum(1)).mean()


def train(
    x: Tensor, seed: int, steps: int, watch: tuple[int, ...] = (), **kwargs: Any
) -> tuple[float, Tensor]:
    """Train once; held-out loss, and (steps, 1 + watch) votes of all coordinates and of each size of sample."""
    torch.manual_seed(seed)
    model = Autoencoder(x.shape[1])
    optimizer = ASGDAdam(model.parameters(), **kwargs)
    held_out, training = x[::5], x[torch.arange(len(x)) % 5 != 0]
    heard = []
    while True:
        for batch in torch.randperm(len(training)).split(64)[: len(training) // 64]:
            optimizer.zero_grad()
            model(training[batch], torch.randn(len(batch), 20)).backward()
            if watch and optimizer.state:
                gradients = [p.grad for p in model.parameters()]
                momenta = [optimizer.state[p]["exp_avg"] for p in model.parameters()]
                turn = optimizer.param_groups[0]["t"]
                heard.append(
                    [agreement(gradients, momenta, turn=turn, max_votes=n)[0].item() for n in (ALL, *watch)]
                )
            optimizer.step()
            if optimizer.param_groups[0]["t"] == steps:
                with torch.no_grad():
                    noise = torch.randn(held_out.shape[0], 20, generator=torch.Generator().manual_seed(0))
                    return model(held_out, noise).item(), torch.tensor(heard)


def quality(
    x: Tensor, seeds: int, steps: int, sizes: tuple[int, ...]
) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the table of votes and of the table of trainings."""
    interval, threshold = 10, -0.06
    windows = []
    for seed in range(seeds):
        _, heard = train(x, seed, steps, watch=sizes)
        whole = len(heard) // interval * interval
        windows.append(heard[:whole].view(-1, interval, heard.shape[1]))
    all_steps = torch.cat(windows)
    full, *samples = all_steps.mean(1).unbind(1)
    batch_noise = all_steps[:, :, 0].std(1).mean().item() / interval**0.5
    votes = []
    for size, sample in zip(sizes, samples, strict=True):
        off = (sample - full).abs()
        differ = (sample > threshold) != (full > threshold)
        margin = (full - threshold).abs()[differ].max().item() if differ.any() else 0.0
        votes.append(
            [
                f"{size:,}",
                f"{(sample - full).mean():+.5f}",
                f"{(sample - full).std():.4f}",
                f"{off.max():.4f}",
                f"{batch_noise:.4f}",
                f"{int(differ.sum())} of {len(full)}",
                f"{margin:.4f}",
            ]
        )
    trainings = []
    for lr in (1e-4, 1e-3, 1e-2):
        losses = torch.tensor(
            [[train(x, seed, steps, lr=lr, max_votes=n)[0] for n in (ALL, 2**16)] for seed in range(seeds)]
        )
        difference = losses[:, 1] - losses[:, 0]
        error = difference.std().item() / seeds**0.5
        between = losses[:, 0].std().item()
        trainings.append(
            [
                f"{lr:g}",
                *(f"{v:.2f}" for v in losses.mean(0)),
                f"{difference.mean():+.2f} ± {error:.2f}",
                f"{between:.2f}",
            ]
        )
    return votes, trainings


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def quality_report(arguments: argparse.Namespace) -> str:
    """The second part of step_cost.md."""
    x = counts(arguments.data)
    source = arguments.data.name if arguments.data else "simulated counts"
    parameters = sum(p.numel() for p in Autoencoder(x.shape[1]).parameters())
    sizes = (2**14, 2**16, 2**18)
    votes, trainings = quality(x, arguments.seeds, arguments.steps, sizes)
    return f"""## Quality of the sample

{datetime.date.today()}. Autoencoder of {parameters:,} parameters on {source} ({len(x)} cells × {x.shape[1]} features), batches of 64, \
{arguments.steps} steps, {arguments.seeds} seeds. Means over windows of 10 steps: the sampled vote against the vote of \
all coordinates in the same training. "Batch noise" is the standard error of the full mean, from its steps. Decisions \
are taken at the threshold -0.06; where they differ, the full mean was this close to it.

{table(["voters", "bias", "sd of the error", "largest error", "batch noise", "decisions that differ", "largest margin"], votes)}
Held-out loss of trainings that listen to all coordinates or to {2**16:,} (the default), paired over seeds:

{table(["lr", "all vote", "sample votes", "difference ± standard error", "sd between seeds"], trainings)}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="MuData file with raw counts; simulated counts without it")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--only-cost", action="store_true", help="keep the second part of step_cost.md as it is"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    raw = []
    for run in range(arguments.runs):
        for size, shapes in SIZES.items():
            for name in OPTIMIZERS:
                milliseconds, ratio = cost(name, shapes, arguments.repeats)
                raw.append([run, size, name, f"{milliseconds:.4f}", f"{ratio:.4f}"])
            print(f"run {run + 1} of {arguments.runs}: {size} parameters done", flush=True)
    with (HERE / "step_cost.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["run", "parameters", "optimizer", "milliseconds", "ratio"], *raw])

    costs = []
    for name in OPTIMIZERS:
        row = [name]
        for size in SIZES:
            mine = [(float(ms), float(ratio)) for _, s, n, ms, ratio in raw if (s, n) == (size, name)]
            ratios = sorted(ratio for _, ratio in mine)
            milliseconds = statistics.median(ms for ms, _ in mine)
            row.append(
                f"{milliseconds:.2f} ms, {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            )
        costs.append(row)

    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    report = f"""# Cost of a step, and what the sampled vote loses

{datetime.date.today()}; {processor}, one thread, other work on the machine; Python {platform.python_version()}, \
torch {torch.__version__}.

## Cost

CPU time per step, and its ratio to torch's fused Adam (that of ASGDAMSGrad: to torch's fused AMSGrad; median of {arguments.runs} runs, smallest and largest in \
brackets; {arguments.repeats} repeats per run, step by step in turn). "Full pass" lets every coordinate vote at every step.

{table(["optimizer", *(f"{size} parameters" for size in SIZES)], costs)}
"""
    if arguments.only_cost:
        report += (
            "## Quality of the sample"
            + (HERE / "step_cost.md").read_text().split("## Quality of the sample")[1]
        )
    else:
        report += quality_report(arguments)
    (HERE / "step_cost.md").write_text(report)
    print(report)


if __name__ == "__main__":
    main()

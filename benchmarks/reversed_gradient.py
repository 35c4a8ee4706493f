"""Does a classifier of the batch behind a reversed gradient mix batches better? See "tried" in integration.md.

    python benchmarks/reversed_gradient.py HARNESS DATA --sets mosaic cite_A --strengths 0 10 --seeds 0 1

HARNESS is the folder of the peers' harness (its ``data``, ``methods`` and ``metrics``), DATA that of the data sets.
"""

import argparse
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mmopt as mm
from mmopt.models.module import TriModule

STRENGTH = 0.0


class Reversed(torch.autograd.Function):
    """The values as they are, their gradient turned round and scaled."""

    @staticmethod
    def forward(ctx, values, strength):
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx, upstream):
        return -ctx.strength * upstream, None


def with_critic() -> None:
    """Give TriVI's module the classifier, and its loss the cross entropy."""
    plain_init, plain_loss = TriModule.__init__, TriModule.loss

    def init(self, n_features, n_batch=1, **kwargs):
        plain_init(self, n_features, n_batch, **kwargs)
        if STRENGTH and n_batch > 1:
            self.critic = nn.Sequential(
                nn.Linear(self.n_latent, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, n_batch)
            )

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight=1.0):
        out = plain_loss(self, tensors, inference_outputs, generative_outputs, kl_weight)
        if self.training and hasattr(self, "critic"):
            batch = tensors["batch"]
            logits = self.critic(Reversed.apply(inference_outputs["z"], STRENGTH * kl_weight))
            sizes = torch.bincount(batch, minlength=self.n_batch).clamp(min=1)
            weight = (len(batch) / self.n_batch / sizes)[batch]
            out.loss = out.loss + (cross_entropy(logits, batch, reduction="none") * weight).mean()
        return out

    TriModule.__init__, TriModule.loss = init, loss


def main() -> None:
    global STRENGTH
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("harness", type=Path)
    p.add_argument("data", type=Path)
    p.add_argument("--sets", nargs="+", default=["mosaic", "multiome_A", "cite_A"])
    p.add_argument("--strengths", type=float, nargs="+", default=[0, 5, 10, 20])
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    a = p.parse_args()
    sys.path.insert(0, str(a.harness))
    data, methods, metrics = (import_module(name) for name in ("data", "methods", "metrics"))
    with_critic()
    for name in a.sets:
        bench = data.load(name, str(a.data))
        for STRENGTH in a.strengths:
            for seed in a.seeds:
                mdata = bench.mdata.copy()
                roles = {role: role if role in mdata.mod else None for role in methods.MODS}
                model = mm.tl.integrate(mdata, batch_key=bench.batch, random_state=seed, **roles)
                order = bench.mdata.obs_names.get_indexer(mdata.obs_names)
                embedding = np.empty_like(mdata.obsm["X_mmopt"])
                embedding[order] = mdata.obsm["X_mmopt"]
                scores = metrics.score_embedding(
                    embedding, bench.labels(), bench.batches(), None, data.MIN_CELLS
                )
                bound = float(model.history["elbo_validation"].iloc[-1, 0])
                kept = {k: round(scores[k], 3) for k in ("overall", "bio", "ilisi", "knn_acc") if k in scores}
                print(name, STRENGTH, seed, kept, f"held-out bound {bound:.2f}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

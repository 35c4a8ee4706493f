"""Train in as many processes as asked for; what :mod:`test_distributed` starts. Lightning runs it again for each process.

python distributed_run.py PROCESSES FOLDER
"""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import torch

EPOCHS, GLOBAL_BATCH = 8, 32


def run(mdata, checkpoint, world=1, **kwargs):
    """Two networks without noise, so that what processes do together can be told from what one does."""
    from mmopt.models import TriVI

    TriVI.setup_mudata(mdata, batch_key="donor")
    sizes = {"n_latent": 4, "n_hidden": 16, "n_networks": 2}
    model = TriVI(mdata, **sizes, dropout_rate=0.0, modality_dropout=0.0)
    before, torch.randn_like = torch.randn_like, torch.zeros_like
    try:
        model.train(
            EPOCHS,
            batch_size=GLOBAL_BATCH // world,
            optimizer_kwargs={"switch_interval": 2, "warmup_steps": 2, "switch_factor": 1.05},
            early_stopping_patience=1,
            checkpoint=checkpoint,
            accelerator="cpu",
            progress_bar=False,
            **kwargs,
        )
    finally:
        torch.randn_like = before
    return {
        "train_loss": model.history["train_loss"].to_numpy().ravel(),
        "elbo": model.history["elbo_validation"].to_numpy().ravel(),
        "rates": model.steps_["rate"].to_numpy(),
        "losses": model.steps_["loss"].to_numpy(),
        "embedding": model.get_latent_representation(),
        "weights": torch.cat([p.detach().ravel() for p in model.module.parameters()]).numpy(),
    }


def failing(mdata, **kwargs):
    """Train with fewer held-out cells than processes, then with a value that the last process alone finds wrong."""
    from lightning.pytorch import Callback

    from mmopt.models import NonFiniteLossError, TriVI

    class Poison(Callback):
        def on_train_batch_start(self, trainer, plan, batch, index):
            if trainer.global_step == 1 and trainer.global_rank == trainer.world_size - 1:
                batch["prot"].counts.fill_(torch.nan)

    TriVI.setup_mudata(mdata)
    model = TriVI(mdata, n_latent=2, n_hidden=4)
    kwargs |= {"accelerator": "cpu", "progress_bar": False, "batch_size": 16}
    model.train(1, held_out=[3], **kwargs)
    few = model.history["validation_loss"].to_numpy().ravel()
    with torch.no_grad():
        before = next(model.module.parameters()).sum().item()
    try:
        model.train(1, callbacks=[Poison()], **kwargs)
    except NonFiniteLossError as error:
        after = next(model.module.parameters()).sum().item()
        return {"few": few, "error": str(error), "restored": np.array([after == before])}
    raise AssertionError("training went on")


if __name__ == "__main__":
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("shared", Path(__file__).with_name("conftest.py"))
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    world, folder = int(sys.argv[1]), Path(sys.argv[2])
    found = run(shared.draw_mosaic(n=81), folder / "together.ckpt", world, devices=world, strategy="ddp")
    found |= failing(shared.draw_mosaic(n=81), devices=world, strategy="ddp")
    np.savez(folder / f"rank{os.environ.get('LOCAL_RANK', 0)}.npz", **found)

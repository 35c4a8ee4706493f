"""Mapping new data onto a trained reference: what belongs to the reference stays, only new batches are learned."""

import os
from typing import Self

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi.data import AnnDataManager
from torch import Tensor

from mmopt import _checks
from mmopt._compat import override_pull_on_update
from mmopt._logging import logger
from mmopt.models import starting, statistics
from mmopt.models.data import MosaicLoader
from mmopt.models.devices import find_device
from mmopt.models.module import TriModule, freeze
from mmopt.models.mosaic import read_mosaic
from mmopt.models.stored import blocks

BRIGHTNESS_CELLS = 1000  # looked at in each new batch: enough for one number
# what belongs to added batches: the parameter it continues, and along which axis
KEPT = {"added": ("weight", 1), "added_background": ("log_background", 0), "added_theta": ("log_theta", 0)}


class Queries:
    """``load_query_data`` and ``prepare_query_mudata`` of :class:`mmopt.models.TriVI`."""

    @classmethod
    def load_query_data(
        cls,
        mdata: MuData,
        reference_model: "str | os.PathLike | Self",
        *,
        unfrozen: bool = False,
        accelerator: str = "auto",
    ) -> Self:
        """Return a model of new data that shares everything with a trained reference but what belongs to new batches.

        Encoders know no batch: embedding the query needs no training and leaves the embedding of the reference as it
        is. :meth:`train` then learns how the query's new batches differ in the decoders, and nothing else; before it,
        new batches have the mean weights of the reference's batches, and their proteins one factor in common by which they are
        brighter or darker than the reference expects of these cells.

        Parameters
        ----------
        mdata
            The query, with the names of modalities and the batch column of the reference. It may lack modalities, and
            its features may be in another order. Proteins without a single count in a new batch are taken as not
            measured there; the reference's ``protein_panels`` are those of its own batches.
        reference_model
            A trained model, which is left as it is, or the file of one.
        unfrozen
            Train everything, as a new fit that starts from the reference. The embedding of the reference then changes.
        accelerator
            Where to put the model; the fastest device there is by default.

        Raises
        ------
        ValueError, KeyError, TypeError
            A reference that is untrained or no model; data with none of its modalities, without its batch column, or
            without some of its features (:meth:`prepare_query_mudata` fills in a few).

        Examples
        --------
        >>> query = mm.models.TriVI.load_query_data(mdata, "reference.safetensors")
        >>> query.train()
        >>> mdata.obsm["X_mmopt"] = query.get_latent_representation()
        >>> protein = query.get_normalized("prot")

        References
        ----------
        Lotfollahi et al. (2022), Nat Biotechnol 40:121.
        """
        reference = cls._reference(reference_model)
        registry = reference.registry_
        known = list(registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"])
        setup = {k: v for k, v in registry["setup_args"].items() if k != "protein_panels"}
        cls.setup_mudata(mdata, source_registry=registry, extend_categories=True, **setup)
        manager = cls._get_most_recent_anndata_manager(mdata, required=True)
        batches = manager.get_state_registry("batch")["categorical_mapping"]
        arguments = reference.arguments_ | {"n_added_batches": len(batches) - len(known)}
        model = cls(registry=manager.registry, **arguments)
        model._adata, model._adata_manager = mdata, manager
        model._register_manager_for_instance(manager)
        for network, learned in zip(model.networks, reference.networks, strict=True):
            network.load_state_dict(_extended(learned, manager, len(known)))
            if unfrozen:  # the weight of the prior of the peaks
                network.n_cells.fill_(mdata.n_obs)
        freeze(model.module, unfrozen)
        model.module.eval()
        for network in model.networks:
            _brighten(network, manager)
        model.is_trained_ = True
        model.to_device(find_device(accelerator))
        return model

    @classmethod
    def prepare_query_mudata(
        cls, mdata: MuData, reference_model: "str | os.PathLike | Self", *, min_shared: float = 0.8
    ) -> MuData:
        """Return the query with the features of the reference, in its order; those that it lacks are filled with zeros.

        Zeros are wrong for genes and peaks that are expressed, so that no more than a few may be missing. Proteins may
        be: in a new batch, proteins without a count are taken as not measured.

        Parameters
        ----------
        mdata
            The query. Modalities that the reference does not know are left out.
        reference_model
            A trained model or the file of one.
        min_shared
            Share of the reference's genes and peaks that the query must have.

        Returns
        -------
        A new MuData with raw counts in ``X`` (and in the reference's layer) and the same ``obs``, its cells in the same
        order.

        Raises
        ------
        ValueError
            Too few of the features are there.
        """
        reference = cls._reference(reference_model)
        fields = reference.registry_["field_registries"]
        _checks.check_mudata(mdata)
        there = {m: fields[m]["state_registry"]["modality"] for m in reference.modalities}
        there = {m: name for m, name in there.items() if name in mdata.mod}
        _checks.check_names(mdata, there)
        mods = {}
        for m in reference.modalities:
            state = fields[m]["state_registry"]
            name, features, layer = state["modality"], state["features"], state["layer"]
            if name not in mdata.mod:
                continue
            adata = mdata.mod[name]
            where = adata.var_names.get_indexer(features)
            shared = float((where >= 0).mean())
            if shared < (min_shared if m != "prot" else 1 / len(features)):
                raise ValueError(
                    f"modality {name!r} has {100 * shared:.0f} % of the reference's {len(features)} features, and at "
                    f"least {100 * min_shared:g} % are needed; are its names of the same kind (the reference has "
                    f"{_checks.listed(features, 3)}, the query {_checks.listed(adata.var_names, 3)})?"
                )
            if shared < 1:
                logger.warning(
                    "modality %r: %d of the reference's %d features are missing and filled with zeros",
                    *(name, int((where < 0).sum()), len(features)),
                )
            counts = sparse.csc_matrix(_checks.counts(adata, name, layer))
            counts = sparse.hstack([counts, sparse.csc_matrix((adata.n_obs, 1), dtype=counts.dtype)]).tocsc()
            made = AnnData(counts[:, np.where(where < 0, adata.n_vars, where)].tocsr(), obs=adata.obs.copy())
            made.var_names = features
            if layer not in (None, "X"):
                made.layers[layer] = made.X.copy()
            mods[name] = made
        if not mods:
            raise ValueError(
                f"the query has none of the reference's modalities "
                f"{_checks.listed(fields[m]['state_registry']['modality'] for m in reference.modalities)}; it has "
                f"{_checks.listed(mdata.mod)}; rename its modalities, e.g. `mudata.MuData({{'rna': mdata['gex']}})`"
            )
        with override_pull_on_update():
            out = MuData(mods)
            kept = mdata.obs_names[mdata.obs_names.isin(out.obs_names)]
            # cells come as the modalities do, whose order is the reference's
            if not kept.equals(out.obs_names):
                out = out[kept].copy()
        out.obs = mdata.obs.reindex(out.obs_names)
        return out

    @classmethod
    def _reference(cls, reference: "str | os.PathLike | Self") -> Self:
        if isinstance(reference, cls):
            model = reference
        elif isinstance(reference, str | os.PathLike):
            model = cls.load(reference, accelerator="cpu")
        else:
            raise TypeError(
                f"reference_model must be a TriVI or the file of one, not {type(reference).__name__}"
            )
        if not model.is_trained:
            raise ValueError("the reference is not trained; call its `train()` first")
        return model


def _extended(reference: TriModule, manager: AnnDataManager, n_known: int) -> dict[str, Tensor]:
    """Return the reference network's parameters and buffers with room for new batches, which start from the mean of the others."""
    state = folded({k: v.clone().cpu() for k, v in reference.state_dict().items()})
    n_added = len(manager.get_state_registry("batch")["categorical_mapping"]) - n_known
    if not n_added:
        return state
    mosaic = read_mosaic(manager)
    measured = starting.what_is_measured(manager, mosaic)
    for m in reference.modalities:
        before = state[f"measured_{m}"]
        if m == "prot":
            # whatever the rest of the query has, a protein without a count is absent if the reference has it
            totals = sum(map(statistics.column_sums, blocks(mosaic.counts[m])), np.zeros(len(before.T)))
            without = totals == 0
            measured[m] &= ~(without & before.any(0).numpy())
        state[f"measured_{m}"] = torch.cat([before, torch.as_tensor(measured[m][n_known:])])
        seen = before.any(1)
        first = state[f"decoders.{m}.body.0.weight"]
        state[f"decoders.{m}.body.0.added"] = _mean(first[:, -n_known:].T, seen[:, None], n_added).T
        if m != "prot":
            weight = state[f"depths.{m}.weight"]
            new = _mean(weight[:, -n_known:].T, seen[:, None], n_added).T
            state[f"depths.{m}.weight"] = torch.cat([weight, new], 1)
            continue
        for kept, added in (("log_background", "added_background"), ("log_theta", "added_theta")):
            state[f"decoders.prot.{added}"] = _mean(state[f"decoders.prot.{kept}"], before, n_added)
    return state


@torch.no_grad()
def _brighten(network: TriModule, manager: AnnDataManager) -> None:
    """Shift the protein background of each new batch by one number, the median over its proteins of counts seen over expected.

    Expected of the same cells as the reference decodes them. Quantiles of the new counts would be no background: in sorted
    T cells all of CD3 is foreground.
    """
    mosaic, n_known = read_mosaic(manager), network.n_batch - network.n_added_batches
    for b in range(n_known, network.n_batch if "prot" in network.decoders else 0):
        cells, measured = (
            np.flatnonzero((mosaic.batch == b) & (mosaic.place["prot"] >= 0)),
            network.measured_prot[b],
        )
        if not (len(cells) and measured.any()):
            continue
        totals = torch.full((2, len(measured)), 0.5)
        for tensors in MosaicLoader(manager, cells[:: 1 + len(cells) // BRIGHTNESS_CELLS], 512):
            z = network.inference(tensors, noise=torch.zeros(1))["qz"].loc[tensors["prot_rows"]]
            decoded = network._decode("prot", z, torch.full((len(z),), b))
            expected = network.decoders["prot"].expected(decoded)
            totals += torch.stack([tensors["prot"].dense(expected.shape[1]).sum(0), expected.sum(0)])
        seen, expected = totals[:, measured].log()
        network.decoders["prot"].added_background[b - n_known] += (seen - expected).median()


def folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a module as if its added batches had always been there."""
    out = dict(state)
    for name in state:
        stem, _, last = name.rpartition(".")
        if last in KEPT:
            kept, axis = KEPT[last]
            out[f"{stem}.{kept}"] = torch.cat([out[f"{stem}.{kept}"], out.pop(name)], axis)
    return out


def _mean(of_batches: Tensor, measured: Tensor, times: int) -> Tensor:
    """Mean over the batches that measured something, for each of so many new ones."""
    weights = measured.to(of_batches.dtype)
    mean = (of_batches * weights).sum(0) / weights.sum(0).clamp_min(1)
    return mean.repeat(times, 1)

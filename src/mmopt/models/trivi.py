"""The tri-modal model."""

import math
from numbers import Integral
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data._manager import AnnDataManagerValidationCheck
from scvi.model.base import BaseModelClass, VAEMixin

from mmopt import _checks
from mmopt._batches import batch_codes
from mmopt._keys import ALIASES, MODALITIES
from mmopt._logging import logger
from mmopt._random import isolated
from mmopt.models import panels, starting
from mmopt.models.answers import Answers
from mmopt.models.data import MosaicLoader, MosaicSplitter
from mmopt.models.ensemble import TriModules
from mmopt.models.fields import BatchField, CountsField
from mmopt.models.files import Files
from mmopt.models.fitting import Fitting
from mmopt.models.manager import MosaicManager, Registered
from mmopt.models.module import TriModule
from mmopt.models.predictions import Predictions
from mmopt.models.query import Queries
from mmopt.models.training import MosaicTrainRunner, TriTrainingPlan


class TriVI(Registered, Files, Queries, Fitting, Answers, Predictions, VAEMixin, BaseModelClass):
    """Variational autoencoder of RNA, ATAC and surface protein, any of which a cell may lack.

    Every modality has an encoder; a cell's posterior is the product of the experts of the modalities it has and a
    standard normal prior. In training, modalities are withheld at random, so that every subset of them gives a
    usable posterior. RNA counts are negative binomial given the observed library size, ATAC fragments multinomial
    given the cell's fragments, protein counts a negative-binomial mixture of background and foreground. Decoders see
    the batch.

    Parameters
    ----------
    mdata
        Data prepared by :meth:`setup_mudata`.
    n_latent
        Dimensions of the embedding.
    n_hidden
        Units of the hidden layers.
    dropout_rate
        Dropout of inputs (not of the components of more than 8,192 peaks) and hidden units.
    modality_dropout
        Probability with which a modality is withheld from a cell's posterior in a training step.
    n_networks
        Networks, fitted one after the other. Each has its share of the dimensions of the embedding; imputed values are their
        mean, and draws and intervals come from all of them, so that these know of the chance in a fit. With the same number
        of dimensions in all, two are better than one for a few hundred or thousand cells, at twice the time.
    random_state
        Seed of the starting weights.
    registry
        A setup to use without data, as :meth:`TriVI.load` does.
    **module_kwargs
        Further arguments of the network, ``mmopt.models.module.TriModule``.

    Examples
    --------
    >>> mm.models.TriVI.setup_mudata(mdata, batch_key="donor")
    >>> model = mm.models.TriVI(mdata)
    >>> model.train()
    >>> mdata.obsm["X_mmopt"] = model.get_latent_representation()

    References
    ----------
    The likelihoods follow Lopez et al. (2018) Nat Methods 15:1053 and Gayoso et al. (2021) Nat Methods 18:272, the
    product of experts Wu and Goodman (2018) NeurIPS 31.
    """

    _module_cls = TriModule
    _data_loader_cls = MosaicLoader
    _data_splitter_cls = MosaicSplitter
    _training_plan_cls = TriTrainingPlan
    _train_runner_cls = MosaicTrainRunner

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        n_latent: int = 20,
        n_hidden: int = 128,
        dropout_rate: float = 0.3,
        modality_dropout: float = 0.3,
        n_networks: int = 1,
        random_state: int = 0,
        registry: dict | None = None,
        **module_kwargs,
    ):
        sizes = {"n_latent", "n_hidden", "n_networks"}
        # None: what pays
        sizes |= {k for k in ("atac_rank", "peaks_per_step") if module_kwargs.get(k) is not None}
        sized = {"n_latent": n_latent, "n_hidden": n_hidden, "n_networks": n_networks}
        for name, value in (sized | module_kwargs).items():
            if name in sizes and not (isinstance(value, Integral) and value > 0):
                raise ValueError(f"{name} must be a positive integer; got {value!r}")
            if name == "alignment" and not 0 <= value < math.inf:
                raise ValueError(f"alignment must be a number of at least 0; got {value!r}")
        if n_networks > n_latent:
            raise ValueError(f"{n_networks} networks cannot share n_latent={n_latent} dimensions")
        if not 0 <= dropout_rate <= 1:
            raise ValueError(f"dropout_rate must lie in [0, 1]; got {dropout_rate!r}")
        if not 0 <= modality_dropout < 1:  # a cell keeps at least one: at 1 it would keep all
            raise ValueError(f"modality_dropout must lie in [0, 1); got {modality_dropout!r}")
        if registry is None and (mdata is None or self._get_most_recent_anndata_manager(mdata) is None):
            raise ValueError("a model needs data that are set up; call `TriVI.setup_mudata(mdata)` first")
        super().__init__(mdata, registry)
        arguments = {
            "n_hidden": n_hidden,
            "dropout_rate": dropout_rate,
            "modality_dropout": modality_dropout,
            **module_kwargs,
        }
        self.arguments_ = {"n_latent": n_latent, "n_networks": n_networks, **arguments}
        n_features = {m: self.summary_stats[f"n_{m}"] for m in MODALITIES if f"n_{m}" in self.summary_stats}
        n_batch = self.summary_stats["n_batch"]
        own, more = divmod(n_latent, n_networks)
        with isolated(random_state):
            networks = [
                TriModule(n_features, n_batch, n_latent=own + (i < more), **arguments)
                for i in range(n_networks)
            ]
        if mdata is not None:
            found = starting.found(self.adata_manager, networks[0].n_components)
            for network in networks:
                network.adopt(*found)
        self.module = networks[0] if n_networks == 1 else TriModules(networks)
        self.module.eval()
        self.steps_: pd.DataFrame | None = None
        self.cells_: str | None = None  # digest of those of training, without which the split means nothing
        self.optimizer_settings_: dict[str, Any] = {}
        sizes = ", ".join(f"{m} {n}" for m, n in n_features.items())
        self._model_summary_string = (
            f"TriVI: {sizes} features; {n_batch} batches; {n_latent} latent dimensions"
        )
        self._model_summary_string += f" in {n_networks} networks" * (n_networks > 1)
        self.init_params_ = self._get_init_params(locals())

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities in use, of ``"rna"``, ``"atac"``, ``"prot"``, in this order."""
        return self.module.modalities

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The networks that are fitted one after the other; most models have one."""
        return list(getattr(self.module, "networks", [self.module]))

    # ------------------------------------------------------------------ data
    @classmethod
    def setup_anndata(cls, adata: AnnData, **_) -> None:
        """Refuse, and say how one modality becomes a MuData."""
        raise TypeError(
            'TriVI reads MuData: wrap the AnnData, `mdata = mudata.MuData({"rna": adata})`, and call setup_mudata'
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna: str | None = None,
        atac: str | None = None,
        prot: str | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        use_highly_variable: bool | None = None,
        protein_panels: panels.Panels = "auto",
        **kwargs,
    ) -> None:
        """Tell the model which modalities, counts and batches to use.

        Parameters
        ----------
        mdata
            The data; cells may lack modalities. ATAC counts are to be of fragments, which :func:`mmopt.pp.prepare` makes
            of cut sites. Counts in ``X`` stay on disk if they are there
            (``mudata.read_h5mu(path, backed=True)``), and training reads them piece by piece. Data that change later
            are read again, and refused if they no longer fit; counts that were normalised since stay as they were read, and
            single ones that are changed in place are not noticed.
        rna, atac, prot
            Names of the modalities; found by their usual names if not given, left out if ``False``.
        layer
            Layer with the raw counts; ``layers["counts"]`` where there is one, else ``X``.
        batch_key
            Column of ``mdata.obs`` or of the modalities' ``obs``.
        use_highly_variable
            Use the features marked by ``var["highly_variable"]``: where there is such a column (``None``), in every
            modality (``True``), or not at all (``False``).
        protein_panels
            Which proteins each batch measured: a mapping from batches to names (batches that are not in it measured
            all), ``None`` if all batches measured all, ``"auto"`` to take a protein without a single count in a batch
            as not measured there if other batches have it, and protein as not measured in a batch without a count of
            any. What a batch did not measure is absent, not zero: it enters neither the likelihood nor the embedding,
            and :meth:`get_normalized` imputes it.

        Raises
        ------
        KeyError, TypeError, ValueError
            A modality, layer, column, batch or protein that is absent; values that are not counts; names that repeat.
        """
        setup_method_args = cls._get_setup_method_args(**{k: v for k, v in locals().items() if k != "kwargs"})
        source = kwargs.get("source_registry")
        if source is None:
            modalities = _checks.find_modalities(mdata, rna, atac, prot)
            _checks.report_unused(mdata, modalities, rna=rna, atac=atac, prot=prot)
        else:
            fields = source["field_registries"]
            modalities = {m: fields[m]["state_registry"]["modality"] for m in MODALITIES if m in fields}
        _check_has_some(mdata, modalities)
        _checks.refuse_view(mdata)
        if source is None and "prot" in modalities:
            _, batches = batch_codes(mdata, batch_key, modalities)
            names = list(map(str, mdata.mod[modalities["prot"]].var_names))
            setup_method_args["setup_args"]["protein_panels"] = panels.check(protein_panels, names, batches)
        manager = MosaicManager(
            fields=[CountsField(m, name, layer, use_highly_variable) for m, name in modalities.items()]
            + [BatchField(batch_key, modalities)],
            setup_method_args=setup_method_args,
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    def _validate_anndata(self, adata: MuData | None = None, copy_if_view: bool = True) -> MuData:
        if adata is None and self._adata is None:
            raise ValueError("the model was loaded and has no data yet; pass `mdata`")
        if isinstance(adata, str):
            raise TypeError(
                f"a MuData is needed, not {adata!r}; where modalities can be chosen, name them with `given=` or `modality=`"
            )
        if adata is not None and adata is not self._adata:
            fields = self.registry_["field_registries"]
            _check_has_some(adata, {m: fields[m]["state_registry"]["modality"] for m in self.modalities})
        return super()._validate_anndata(adata, copy_if_view)


def _check_has_some(mdata: MuData, modalities: dict[str, str]) -> None:
    """Refuse data with none of the modalities, cells with none of them, and names that repeat."""
    _checks.check_mudata(mdata)
    there = {m: name for m, name in modalities.items() if name in mdata.mod}
    renamed = [
        f"rename {other!r} to {name!r}, `mudata.MuData({{{name!r}: mdata[{other!r}], ...}})`"
        for m, name in modalities.items()
        for other in mdata.mod
        if m not in there and other not in modalities.values() and other.lower() in ALIASES[m]
    ]
    if not there:
        raise ValueError(
            f"the data have none of the model's modalities {_checks.listed(modalities.values())}; they have "
            f"{_checks.listed(mdata.mod)}" + "".join(f"; {how}" for how in renamed)
        )
    for how in renamed:
        logger.warning("a modality is not used, as the model knows it by another name; %s", how)
    _checks.check_obs(mdata, there)

"""What TriVI registers of a MuData with scvi-tools: the counts of each modality and the batch of each cell."""

import rich.pretty  # scvi-tools uses it without importing it
import rich.table
from mudata import MuData
from scvi.data.fields import BaseAnnDataField

from mmopt import _checks
from mmopt._batches import batch_codes
from mmopt._keys import HIGHLY_VARIABLE
from mmopt._logging import logger
from mmopt.models import stored

LEAST_CELLS = 3  # per batch, on average: with fewer, the column says which cell it is


class CountsField(BaseAnnDataField):
    """Raw counts of one modality, whose cells may be a part of the MuData's.

    The registry keeps the names of the features; data registered later need the same names, in any order. A modality
    that later data lack altogether is marked absent. ``layer`` is what was asked for, ``source`` what is read of the data.
    """

    def __init__(self, role: str, modality: str, layer: str | None, use_highly_variable: bool | None):
        super().__init__()
        self.role, self.modality, self.layer, self.use_highly_variable = (
            role,
            modality,
            layer,
            use_highly_variable,
        )

    registry_key = property(lambda self: self.role)
    mod_key = property(lambda self: self.modality)
    attr_name = property(lambda self: "X" if self.layer in (None, "X") else "layers")
    attr_key = property(lambda self: None if self.attr_name == "X" else self.layer)
    is_empty = False

    def validate_field(self, mdata: MuData) -> None:
        stored.check(mdata.mod[self.modality], self.modality, self.layer)

    def register_field(self, mdata: MuData) -> dict:
        adata = mdata.mod[self.modality]
        source = stored.check(adata, self.modality, self.layer)
        selected = adata.var_names
        if self.use_highly_variable is not False and HIGHLY_VARIABLE in adata.var:
            selected = adata.var_names[_checks.marks(adata.var, HIGHLY_VARIABLE, self.modality)]
            if not len(selected):
                raise ValueError(
                    f"modality {self.modality!r}: var[{HIGHLY_VARIABLE!r}] selects no feature; select some with "
                    "`mm.pp.prepare(mdata)` or pass `use_highly_variable=False`"
                )
        elif self.use_highly_variable:
            raise KeyError(
                f"modality {self.modality!r} has no var[{HIGHLY_VARIABLE!r}]; call `mm.pp.prepare(mdata)` first or "
                "pass `use_highly_variable=None`"
            )
        return {
            "modality": self.modality,
            "layer": self.layer,
            "source": source,
            "features": [str(v) for v in selected],
            "absent": False,
        }

    def transfer_field(self, state_registry: dict, mdata: MuData, **_) -> dict:
        state = state_registry | {"absent": self.modality not in mdata.mod, "source": self.layer}
        if state["absent"]:
            return state
        missing = set(state["features"]) - set(mdata.mod[self.modality].var_names)
        if missing:
            raise ValueError(
                f"modality {self.modality!r} lacks {len(missing)} of the model's {len(state['features'])} features "
                f"({_checks.listed(sorted(missing))}); give the model data with the features it was trained on. If only "
                "a few are missing, `TriVI.prepare_query_mudata(mdata, model)` fills them in"
            )
        state["source"] = stored.check(mdata.mod[self.modality], self.modality, self.layer)
        return state

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {f"n_{self.role}": len(state_registry["features"])}

    def view_state_registry(self, state_registry: dict) -> rich.table.Table | None:
        table = rich.table.Table(title=f"{self.role}: {state_registry['modality']}")
        table.add_column("features")
        table.add_row(str(len(state_registry["features"])))
        return table


class BatchField(BaseAnnDataField):
    """The batch of each cell, looked up in ``mdata.obs`` and in the modalities' ``obs``."""

    registry_key = "batch"
    attr_name = "obs"
    is_empty = False

    def __init__(self, batch_key: str | None, modalities: dict[str, str]):
        super().__init__()
        self.batch_key, self.modalities = batch_key, modalities

    attr_key = property(lambda self: self.batch_key)

    def validate_field(self, mdata: MuData) -> None:
        batch_codes(mdata, self.batch_key, self._there(mdata))

    def _there(self, mdata: MuData) -> dict[str, str]:
        return {role: name for role, name in self.modalities.items() if name in mdata.mod}

    def register_field(self, mdata: MuData) -> dict:
        _, categories = batch_codes(mdata, self.batch_key, self._there(mdata))
        if len(categories) > 1 and mdata.n_obs < LEAST_CELLS * len(categories):
            logger.warning(
                "obs column %r has %d batches in %d cells: is it the column of the batch? Numbers measured of each cell, "
                "or names of cells, are none",
                *(self.batch_key, len(categories), mdata.n_obs),
            )
        return {"categorical_mapping": categories, "original_key": self.batch_key}

    def transfer_field(
        self, state_registry: dict, mdata: MuData, extend_categories: bool = False, **_
    ) -> dict:
        known = list(state_registry["categorical_mapping"])
        _, categories = batch_codes(mdata, self.batch_key, self._there(mdata))
        new = [c for c in categories if c not in known]
        if new and not extend_categories:
            raise ValueError(
                f"obs column {self.batch_key!r} has batches the model was not trained on ({_checks.listed(new)}); it "
                f"knows {_checks.listed(known, 20)}. Cells of new batches are mapped by "
                "`TriVI.load_query_data(mdata, model)`"
            )
        return {"categorical_mapping": known + new, "original_key": self.batch_key}

    def get_summary_stats(self, state_registry: dict) -> dict:
        return {"n_batch": len(state_registry["categorical_mapping"])}

    def view_state_registry(self, state_registry: dict) -> rich.table.Table | None:
        table = rich.table.Table(title=f"batch: {state_registry['original_key']}")
        table.add_column("category")
        for category in state_registry["categorical_mapping"]:
            table.add_row(str(category))
        return table

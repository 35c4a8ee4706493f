"""Setups of data that go when the data or the model go.

scvi-tools keeps every setup in a table of the class, and each setup holds its data: a program that fits many data sets
one after another would hold all of them.
"""

import weakref
from typing import Any

from mudata import MuData
from scvi.data import AnnDataManager

from mmopt.models import starting


class MosaicManager(AnnDataManager):
    """The setup of a MuData; who holds the data is the user, or a model."""

    @property
    def adata(self) -> MuData | None:
        """The data, ``None`` before they are registered and after they are gone."""
        return None if self._data is None else self._data()

    @adata.setter
    def adata(self, mdata: MuData | None) -> None:
        self._data = None if mdata is None else weakref.ref(mdata)

    def register_fields(
        self, adata: MuData, source_registry: dict[str, Any] | None = None, **transfer_kwargs
    ) -> None:
        super().register_fields(adata, source_registry, **transfer_kwargs)
        known = []
        if source_registry is not None:
            known = source_registry["field_registries"]["batch"]["state_registry"]["categorical_mapping"]
        starting.note_empty_batches(self, known)
        starting.warn_of_cut_sites(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_data": self.adata}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.adata = state["_data"]


class Registered:
    """How a model keeps setups."""

    @classmethod
    def register_manager(cls, adata_manager: MosaicManager) -> None:
        super().register_manager(adata_manager)
        _let_go(adata_manager, cls._setup_adata_manager_store)

    def _register_manager_for_instance(self, adata_manager: MosaicManager) -> None:
        stores = self._per_instance_manager_store
        if self.id not in stores:
            weakref.finalize(self, stores.pop, self.id, None).atexit = False
        super()._register_manager_for_instance(adata_manager)
        _let_go(adata_manager, stores[self.id])


def _let_go(manager: MosaicManager, store: dict[str, MosaicManager]) -> None:
    """Take a setup out of the table when its data are gone, unless that of other data stands in its place."""
    uuid, itself = manager.adata_uuid, weakref.ref(manager)

    def forget() -> None:
        if uuid in store and store[uuid] is itself():
            del store[uuid]

    weakref.finalize(manager.adata, forget).atexit = False

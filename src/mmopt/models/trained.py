"""Whether a model can be asked anything."""


def check_model(model: object) -> None:
    """Refuse anything but a trained TriVI and ``None``, which is how tools are told that there is no model.

    Raises
    ------
    TypeError, ValueError
        No TriVI; one that is not trained.
    """
    if model is None:
        return
    from mmopt.models.trivi import TriVI  # tools without a model do without scvi-tools

    if not isinstance(model, TriVI):
        raise TypeError(
            f"model: a trained TriVI is needed, such as `mm.tl.integrate(mdata)` returns, not {model!r:.60}"
        )
    if not model.is_trained_:
        raise ValueError(
            "the model is not trained: call `model.train()`, or `mm.tl.integrate(mdata)`, which makes and trains one"
        )

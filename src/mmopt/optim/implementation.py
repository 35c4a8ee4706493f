"""Which of torch's implementations of Adam updates a group of parameters."""

from typing import Any

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
GRAPH_DEVICES = ("cuda", "xpu")


def choose_implementation(group: dict[str, Any]) -> None:
    """Settle on one of torch's implementations, and refuse parameters that it, or the vote, cannot serve."""
    adapts = group["switch_rule"] != "none"
    for p in group["params"]:
        # DTensor (FSDP2, tensor parallel), and the original or flattened parameters of FSDP1
        if adapts and (hasattr(p, "device_mesh") or getattr(p, "_fsdp_flattened", False)):
            raise ValueError(
                "Parameters sharded over processes are not supported: each process would hear other coordinates and "
                "the base rates would drift apart. Use DistributedDataParallel, or switch_rule='none'."
            )
    devices = {p.device.type for p in group["params"]}
    fusable = devices <= set(FUSED_DEVICES) and all(p.is_floating_point() for p in group["params"])
    if group["fused"] and not fusable:
        raise ValueError(
            f"fused=True needs real floating-point parameters on one of {', '.join(FUSED_DEVICES)}; "
            "leave fused out to take the fastest implementation there is."
        )
    if group["fused"] is None and group["foreach"] is None and fusable:
        group["fused"] = True
    if group["fused"]:
        return
    if group["capturable"] and not devices <= set(GRAPH_DEVICES):
        raise ValueError(
            f"capturable=True needs parameters on one of {', '.join(GRAPH_DEVICES)}, or fused=True; "
            f"these are on {', '.join(sorted(devices))}."
        )
    if adapts and devices and devices <= set(GRAPH_DEVICES):
        # the only unfused form that takes the rate as a tensor and so does not wait for the device
        group["capturable"] = True

"""What the PyTorch peers have in common: threads, and networks as plain arrays."""

import os
from collections.abc import Mapping, Sequence

import given
import torch

torch.set_num_threads(int(os.environ.get("PEER_THREADS") or os.cpu_count() or 1))


@torch.no_grad()
def write_layers(
    layers: Mapping[str, Sequence[torch.nn.Linear]], log_std: torch.nn.Parameter | None, arrays
) -> None:
    """Put the given weights into the linear layers of "policy" and "value"."""
    for which, linears in layers.items():
        for i, linear in enumerate(linears):
            linear.weight.copy_(torch.from_numpy(arrays[f"{which}_w{i}"].T))
            linear.bias.copy_(torch.from_numpy(arrays[f"{which}_b{i}"]))
    if log_std is not None:
        log_std.copy_(torch.from_numpy(arrays["policy_log_std"]).reshape(log_std.shape))


@torch.no_grad()
def read_layers(
    layers: Mapping[str, Sequence[torch.nn.Linear]], log_std: torch.nn.Parameter | None
) -> given.Arrays:
    """The weights as they are now."""
    arrays = {}
    for which, linears in layers.items():
        for i, linear in enumerate(linears):
            arrays[f"{which}_w{i}"] = linear.weight.numpy().T.copy()
            arrays[f"{which}_b{i}"] = linear.bias.numpy().copy()
    if log_std is not None:
        arrays["policy_log_std"] = log_std.numpy().reshape(-1).copy()
    return arrays

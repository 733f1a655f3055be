"""Decode with torch, multiply with its BLAS: right on every device, and the baseline of the others."""

from nvfp4.backends.torch_ops.backend import BACKEND, TorchPlan

__all__ = ["BACKEND", "TorchPlan"]

"""Triton kernels for all operations; an optional extra (`pip install 'nvfp4[triton]'`)."""

from nvfp4.backends.triton.backend import BACKEND, TritonPlan

__all__ = ["BACKEND", "TritonPlan"]

"""Replaces a function of the evaluator while it runs."""

# task: nvfp4_gemm  mode: test  expect: cheat  message: replaced .*fingerprint
import sys


def custom_kernel(data):
    for module in list(sys.modules.values()):
        if hasattr(module, "fingerprint"):
            module.fingerprint = lambda tensor: 0
    return data[-1].fill_(1)

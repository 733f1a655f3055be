"""Overwrites an earlier result that the caller still holds."""

# task: nvfp4_gemm  mode: test  expect: cheat  message: changed an earlier result
from honest import custom_kernel as right

_last = []


def custom_kernel(data):
    if _last:
        _last.pop().zero_()
    _last.append(right(data).clone())
    return _last[0]

"""Keeps the result of each data tuple by its identity: right until the same memory gets new values."""

# task: nvfp4_gemm  mode: leaderboard  expect: wrong  message: outside the contest's tolerance
from honest import custom_kernel as right

_results = {}


def custom_kernel(data):
    if id(data) not in _results:
        _results[id(data)] = right(data).clone()
    data[-1].copy_(_results[id(data)])
    return data[-1]

"""Computes the first result of a sample, and leaves the others."""

# task: nvfp4_gemm  mode: leaderboard  expect: wrong  message: outside the contest's tolerance
from honest import custom_kernel as right

_calls = [0]


def custom_kernel(data):
    _calls[0] += 1
    return right(data) if _calls[0] % 4 == 1 else data[-1]

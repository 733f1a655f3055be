"""Keeps results by the addresses of the operands."""

# task: nvfp4_gemv  mode: leaderboard  expect: wrong  message: outside the contest's tolerance
from honest import custom_kernel as right

_results = {}


def custom_kernel(data):
    key = data[0].data_ptr(), data[1].data_ptr()
    if key not in _results:
        _results[key] = right(data).clone()
    return _results[key].clone()

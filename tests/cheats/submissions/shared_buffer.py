"""Returns the same buffer for every call."""

# task: nvfp4_gemm  mode: leaderboard  expect: cheat  message: share memory|changed afterwards
from honest import custom_kernel as right

_buffer = []


def custom_kernel(data):
    result = right(data)
    if not _buffer:
        _buffer.append(result.clone())
    return _buffer[0].copy_(result)

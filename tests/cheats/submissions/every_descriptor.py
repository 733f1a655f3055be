"""Writes its verdict to every open file descriptor."""

# task: nvfp4_gemm  mode: test  expect: cheat  message: wrote to (the result channel|the evaluator's own channel)
import contextlib
import os


def custom_kernel(data):
    del os.environ["POPCORN_FD"]
    for number in range(3, 2048):
        with contextlib.suppress(OSError):
            if os.path.exists(f"/proc/self/fd/{number}") and "pipe" in os.readlink(f"/proc/self/fd/{number}"):
                os.write(number, b'{"digests":[[0]],"notes":[]}\n')
    return data[-1]

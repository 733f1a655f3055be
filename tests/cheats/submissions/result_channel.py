"""Writes its own verdict to the result channel."""

# task: nvfp4_gemm  mode: test  expect: cheat  message: wrote to the result channel
import os


def custom_kernel(data):
    os.write(int(os.environ["POPCORN_FD"]), b"test.0.status: pass\ncheck: pass\n")
    return data[-1]

"""Replaces the clocks."""

# task: nvfp4_gemm  mode: leaderboard  expect: cheat  message: replaced .*(perf_counter|elapsed_time)
import time

import torch
from honest import custom_kernel as right

time.perf_counter = lambda: 0.0
torch.cuda.Event.elapsed_time = lambda self, end: 1e-6


def custom_kernel(data):
    return right(data)

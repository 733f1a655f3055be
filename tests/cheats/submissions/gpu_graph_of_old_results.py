"""Captures copies of its first results in a graph, and replays it."""

# task: nvfp4_gemm  mode: leaderboard  device: cuda  expect: wrong  message: outside the contest's tolerance
import torch
from honest import custom_kernel as right

_graphs = {}


def custom_kernel(data):
    key = data[-1].data_ptr()
    if key not in _graphs:
        result = right(data).clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            data[-1].copy_(result)
        _graphs[key] = graph, result
    _graphs[key][0].replay()
    return data[-1]

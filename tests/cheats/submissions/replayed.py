"""Records the results of the first calls, and replays them in turn, as a graph of copies would."""

# task: nvfp4_gemm  mode: leaderboard  expect: wrong  message: outside the contest's tolerance
from honest import custom_kernel as right

_tape = []
_position = [0]


def custom_kernel(data):
    if len(_tape) < 4:
        _tape.append(right(data).clone())
        return data[-1]
    _position[0] += 1
    return data[-1].copy_(_tape[_position[0] % 4])

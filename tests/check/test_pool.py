"""Cases in worker processes: the same outcomes in the same order, and errors that arrive as they were raised."""

import pickle

import pytest

from nvfp4.check.pool import run_cases
from nvfp4.check.run import Inputs, Outcome, Target, fuzz, poison_outputs
from nvfp4.check.verdict import judge
from nvfp4.errors import CompileError, InputError, LaunchError, Refusal, UnsupportedError
from nvfp4.problem import Op


def _cases(count):
    return [fuzz(op, seed, largest=24, largest_k=64) for seed in range(count) for op in (Op.GEMV, Op.GROUP_GEMM)]


def _facts(judged):
    target, outcome = judged
    verdict = outcome.verdict  # how far it was off depends on the number of threads
    return (
        target,
        outcome.case,
        outcome.backend,
        outcome.refusal,
        verdict and (verdict.ok, verdict.elements, verdict.exact),
    )


def test_worker_processes_give_the_outcomes_of_one():
    cases = _cases(3)
    targets = [Target("cpu", "torch_ops"), Target("cpu", "sm80")]
    told = []
    inline = [_facts(judged) for judged in run_cases(cases, targets, 1, lambda *_: None)]
    parallel = [_facts(judged) for judged in run_cases(cases, targets, 2, lambda *what: told.append(what))]
    assert parallel == inline
    assert told == [(case, target) for case in cases for target in targets]
    assert all(verdict[0] for *_, verdict in parallel[::2])
    assert all("compute capability 8.0" in refusal for *_, refusal, _ in parallel[1::2])


def test_an_error_in_a_worker_process_is_the_error():
    with pytest.raises(InputError, match="torch_ops") as raised:
        list(run_cases(_cases(2), [Target("cpu", "cublas")], 2, lambda *_: None))
    assert raised.value.remedy


def test_a_wrong_outcome_travels_with_its_diagnosis():
    case = fuzz(Op.GEMM, 3, largest=24, largest_k=64)
    operands, outputs = poison_outputs(Inputs(case).operands)
    for out in operands.out:
        out.fill_(1000.0)
    outcome = Outcome(case, "torch_ops", judge(case.problem, operands, outputs), None, 1.0)
    again = pickle.loads(pickle.dumps(outcome))
    assert again == outcome
    assert not again.ok
    assert str(again.verdict) == str(outcome.verdict)


@pytest.mark.parametrize(
    "error",
    [
        InputError("gemm", "b", "[N, K]", (1, 2), "Pass B."),
        UnsupportedError("gemm", (Refusal("sm80", ("needs a GPU",)),)),
        CompileError("gemm.cu", "line 1"),
        LaunchError("no context"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_are_pickled_whole(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)

"""The sweep over M: its products, and the table with a ratio for each peer."""

import pytest

from nvfp4.bench import model_tables, sweep, tables
from nvfp4.bench.records import Workload
from nvfp4.problem import Format, Op, Problem

from .samples import entry, record


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_products_of_the_sweep():
    problems = sweep.problems()
    assert len(problems) == len(set(problems)) == 21
    assert all(sweep.belongs(problem) for problem in problems)
    assert {problem.m for problem in problems} == {32, 64, 128, 256, 512, 2048, 8192}
    assert {(problem.n, problem.k) for problem in problems} == {(8192, 7168), (4096, 14336), (28672, 4096)}
    for problem in problems:
        assert (problem.a.kind, problem.b.kind, problem.out_dtype) == ("bf16", "nvfp4", "bf16")
    assert sweep.problems([32], [(8192, 7168)], activations="fp16", scale_layout="tiled") == (
        Problem(Op.GEMM, 32, 8192, 7168, a=Format("fp16", ""), b=Format("nvfp4", "tiled"), out_dtype="fp16"),
    )
    assert not sweep.belongs(Problem(Op.GEMM, 32, 8192, 7168))
    assert not sweep.belongs(Problem(Op.GEMM, 33, 8192, 7168, a=Format("bf16", ""), out_dtype="bf16"))


def made():
    small, large = sweep.problems([32, 8192], [(8192, 7168)])
    return [
        record(large, entry("nvfp4/sm90", "nvfp4", 2000.0), entry("cublas-bf16", "peer", 1500.0)),
        record(
            small,
            entry("nvfp4/sm90", "nvfp4", 10.0, "bit-equal"),
            entry("cublas-bf16", "peer", 30.0),
            entry("humming", "peer", 20.0),
        ),
    ]


def test_a_row_for_each_m_with_rates_and_ratios():
    head, _, first, second = rows(model_tables.sweep_table(made(), "nvidia-h200", "back-to-back"))
    cells = dict(zip(head, first, strict=True))
    assert cells["M"] == "32"
    assert cells["weights N x K"] == "8192 x 7168"
    assert cells["speed of light"].endswith("(memory)")
    assert cells["ours"].startswith("10.0 (")
    assert cells["TFLOP/s"] == f"{2 * 32 * 8192 * 7168 / 10e-6 / 1e12:.0f}"
    assert cells["cublas-bf16 / ours"] == "**3.00**"
    assert cells["humming / ours"] == "**2.00**"
    cells = dict(zip(head, second, strict=True))
    assert cells["cublas-bf16 / ours"] == "0.75"
    assert cells["humming"] == cells["humming / ours"] == ""


def test_wrong_peers_and_impossible_times_are_marked():
    (problem,) = sweep.problems([8192], [(8192, 7168)])
    one = record(problem, entry("nvfp4/sm90", "nvfp4", 5.0), entry("humming", "peer", 2000.0, "wrong: all of it"))
    text = model_tables.sweep_table([one], "nvidia-h200", "back-to-back")
    assert "FAULT" in text
    assert "WRONG" in text
    assert "Geometric mean" not in text


def test_the_sweep_and_mixtures_stay_out_of_the_other_tables():
    workload = Workload("a layer", 16, 4, "uniform", 3)
    experts = Problem(Op.GROUP_GEMM, 64, 4096, 7168, a=Format("bf16", ""), stacked=64)
    mixture = record(experts, entry("nvfp4/sm90", "nvfp4", 900.0))
    object.__setattr__(mixture, "workload", workload)
    every = [*made(), mixture]
    assert tables.select(every, "nvidia-h200", Op.GEMM, "back-to-back") == ()
    assert tables.select(every, "nvidia-h200", Op.GROUP_GEMM, "back-to-back") == ()
    assert len(rows(tables.generate("nvidia-h200/sweep", every))) == 4
    assert len(rows(tables.generate("nvidia-h200/mixtures", every))) == 3
    assert tables.generate("nvidia-h200/sweep/graph", every) == tables.NONE


@pytest.mark.parametrize("name", ["sweep", "mixtures"])
def test_no_records_is_said(name):
    assert tables.generate(f"nvidia-b200/{name}", []) == "No records yet.\n"

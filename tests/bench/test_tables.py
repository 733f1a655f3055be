"""Tables and plots from records, and that what the documentation shows is what the records say."""

import dataclasses
from pathlib import Path

import pytest

from nvfp4.bench import plots, records, tables
from nvfp4.bench.records import Entry
from nvfp4.contest.tasks import DUAL_GEMM, GEMM, GEMV
from nvfp4.errors import InputError
from nvfp4.problem import Format, Op, Problem

from .samples import contest_records, entry, record

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = "# Title\n\n<!-- table:nvidia-h200/gemm -->\nstale\n<!-- /table -->\n\nMore.\n"


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_table_has_a_row_for_each_problem_in_the_order_of_the_contest():
    text = tables.generate("nvidia-h200/gemm", contest_records()[::-1])
    head, _, *body = rows(text)
    assert head[3:] == ["nvfp4/sm90", "cublas-fp16", "read-floor", "best peer / ours"]
    assert [row[0] for row in body] == ["128 x 7168 x 16384", "128 x 4096 x 7168", "128 x 7168 x 2048"]
    assert body[0][2] == "30.4 (compute)"
    assert body[0][3] == "**60.8** (50%)"
    assert body[0][4] == "121.6"
    assert body[0][6] == "2.00"
    assert "Geometric mean of best peer / ours: 2.00." in text
    assert "commit 0123456789" in text
    assert "2026-01-02" in text


def test_faults_and_wrong_answers_are_marked():
    problem = GEMM.problem(GEMM.benchmarks[0])
    text = tables.markdown(
        [record(problem, entry("nvfp4/a", "nvfp4", 20.0), entry("nvfp4/b", "nvfp4", 50.0, "wrong: 3 of 9"))]
    )
    (row,) = rows(text)[2:]
    assert "FAULT" in row[3]
    assert "WRONG" in row[4]


def test_a_subject_that_is_missing_somewhere_leaves_its_cell_empty():
    one, two = (GEMM.problem(case) for case in GEMM.benchmarks[:2])
    text = tables.markdown([record(one, entry("nvfp4/a", "nvfp4", 90.0)), record(two, entry("nvfp4/b", "nvfp4", 90.0))])
    _, _, first, second = rows(text)
    assert first[4] == second[3] == ""
    assert first[-1] == ""
    assert "Geometric mean" not in text


def test_an_easier_computation_is_shown_but_not_compared_with():
    problem = GEMM.problem(GEMM.benchmarks[0])
    easier = entry("cublas-fp8", "other", 35.0)
    text = tables.markdown(
        [record(problem, entry("nvfp4/a", "nvfp4", 40.0), entry("cublas-fp16", "peer", 80.0), easier)]
    )
    (row,) = rows(text)[2:]
    assert row[3].startswith("**40.0**")
    assert row[5] == "35.0"
    assert row[-1] == "2.00"


def test_the_newest_record_wins():
    problem = GEMM.problem(GEMM.benchmarks[0])
    old = record(problem, entry("nvfp4/a", "nvfp4", 90.0), time="2026-01-01T00:00:00Z")
    new = record(problem, entry("nvfp4/a", "nvfp4", 70.0), time="2026-02-01T00:00:00Z")
    assert "70.0" in tables.generate("nvidia-h200/gemm", [new, old])
    assert "90.0" not in tables.generate("nvidia-h200/gemm", [new, old])


def test_a_changed_checkout_is_named_as_such():
    made = dataclasses.replace(contest_records()[0], commit="0123456789abcdef+changes")
    assert "commit 0123456789+changes" in tables.markdown([made])


def test_rendering_replaces_what_is_between_markers_and_is_idempotent():
    made = contest_records()
    once = tables.render(DOCUMENT, made)
    assert "stale" not in once
    assert "60.8" in once
    assert once.startswith("# Title\n")
    assert once.endswith("\n\nMore.\n")
    assert tables.render(once, made) == once


def test_a_table_without_records_says_so():
    assert "No records yet." in tables.render(DOCUMENT, ())
    assert "No records yet." in tables.generate("nvidia-h200/gemm/graph", contest_records())


def test_gemv_beside_the_read_floor():
    text = tables.generate("nvidia-h200/gemv-floor", contest_records())
    head, _, first, *rest = rows(text)
    assert head == [
        "shape", "ours", "read floor", "ours / floor", "cublas", "ours / best peer", "GB/s", "of 4.8 TB/s",
    ]  # fmt: skip
    assert len(rest) == 2
    cells = dict(zip(head, first, strict=True))
    ours, reader = float(cells["ours"].strip("*")), float(cells["read floor"])
    assert float(cells["ours / floor"]) == pytest.approx(ours / reader, rel=0.02)
    moved = GEMV.problem(GEMV.benchmarks[0]).bytes
    assert float(cells["GB/s"]) == pytest.approx(moved / ours / 1e3, rel=0.01)
    assert cells["ours / best peer"] == "0.50"


def test_gemv_rows_are_sorted_by_type_and_number():
    def one(n, kind, k=256):
        problem = Problem(Op.GEMV, 512, n, k, 1, Format(), Format(kind, ""))
        mine, peer = entry("nvfp4/sm90", "nvfp4", 3.0), entry(f"cublas-{kind}", "peer", 2.0)
        return record(problem, mine, peer)

    text = tables.generate(
        "nvidia-h200/gemv-rows", [one(16, "fp16"), one(1, "bf16"), one(1, "fp16", 512), one(1, "fp16")]
    )
    head, _, *body = rows(text)
    assert [row[:3] for row in body] == [
        ["512 x 256", "1", "fp16"], ["512 x 512", "1", "fp16"], ["512 x 256", "16", "fp16"], ["512 x 256", "1", "bf16"],
    ]  # fmt: skip
    cells = dict(zip(head, body[0], strict=True))
    assert cells["read floor"] == cells["ours / floor"] == ""
    assert (cells["ours"], cells["cublas"], cells["ours / best peer"]) == ("3.00", "**2.00**", "1.50")


def test_strategies_are_compared_with_the_plainest():
    made = []
    for case, us in zip(DUAL_GEMM.benchmarks, (80.0, 40.0, 20.0, 10.0), strict=True):
        parts = [entry("products + SiLU", "other", us), entry("fused", "other", us / 2)]
        one = record(DUAL_GEMM.problem(case), *parts)
        made.append(dataclasses.replace(one, protocol=dataclasses.replace(one.protocol, name="strategies")))
    head, _, *body = rows(text := tables.generate("nvidia-h200/strategies-dual_gemm", made))
    assert head[2:] == [*(tables.shape_text(r.problem) for r in made), "speed-up"]
    cells = {row[0]: row[2:] for row in body}
    assert cells["products + SiLU"] == ["80.0", "40.0", "20.0", "10.0", "1.00"]
    assert cells["fused"] == ["**40.0**", "**20.0**", "**10.0**", "**5.00**", "2.00"]
    assert cells["parallel queues"] == [""] * 5
    assert "*outside the rules: work in other queues" in text
    assert "No FP4 matrix units here" in text


@pytest.mark.parametrize("name", ["h200", "nvidia-h200/conv", "nvidia-h200/gemm/vibes", "a/b/c/d"])
def test_a_marker_that_names_nothing_is_an_error(name):
    with pytest.raises(InputError, match="marker"):
        tables.generate(name, ())


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(Op.GEMV, 7168, 1, 16384), "7168 x 16384"),
        (Problem(Op.GEMV, 7168, 4, 2048, 4), "7168 x 2048, 4 vectors, batch 4"),
        (Problem(Op.GROUP_GEMM, 512, 3072, 4096, stacked=8), "512 x 3072 x 4096, 8 groups"),
        (Problem(Op.GROUP_GEMM, 9, 1, 1, groups=((2, 64, 32), (7, 64, 32))), "(2, 7) x 64 x 32"),
        (Problem(Op.GROUP_GEMM, 9, 1, 1, groups=((2, 64, 32), (3, 64, 32), (4, 64, 32))), "3 x (2..4) x 64 x 32"),
    ],
)  # fmt: skip
def test_shapes(problem, text):
    assert tables.shape_text(problem) == text


def test_update_writes_only_what_changes(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(DOCUMENT)
    (tmp_path / "docs" / "plain.md").write_text("nothing here\n")
    made = contest_records()
    assert tables.update(tmp_path, made) == (tmp_path / "README.md",)
    assert tables.update(tmp_path, made) == ()


def test_operands_are_named():
    problem = Problem(Op.GEMM, 128, 7168, 16384, a=Format("bf16"))
    assert "nvfp4 weights, bf16" in tables.markdown([record(problem, entry("nvfp4/a", "nvfp4", 90.0))])


def test_committed_records_are_valid_and_committed_tables_are_theirs():
    found = records.load(ROOT / "benchmarks" / "results")
    for path in tables.documents(ROOT):
        text = path.read_text(encoding="utf-8")
        assert tables.render(text, found) == text, f"{path.name}: run python benchmarks/render.py"


def test_a_roofline_is_drawn_and_is_the_same_every_time(tmp_path):
    made = contest_records()
    one, two = (plots.roofline_plot(made, tmp_path / name / "roof.svg") for name in "ab")
    text = one.read_text()
    assert text == two.read_text()
    assert "NVIDIA H200" in text
    assert "gemv, nvfp4" in text
    assert "989 TFLOP/s" in text
    (drawn,) = plots.plot_all(made, tmp_path)
    assert drawn.name == "roofline-nvidia-h200.svg"


def test_a_roofline_is_of_one_device(tmp_path):
    mixed = [
        *contest_records(),
        record(Problem(Op.GEMM, 1, 16, 16), Entry("x", "peer", "", (1.0,)), device="NVIDIA B200"),
    ]
    for wrong in (mixed, []):
        with pytest.raises(InputError, match="one device"):
            plots.roofline_plot(wrong, tmp_path / "x.svg")

"""Records: round trips, and that a record which contradicts itself is not believed."""

import json

import pytest

from nvfp4.bench import provenance, records
from nvfp4.bench.records import RecordError
from nvfp4.contest.tasks import GEMM, GROUP_GEMM
from nvfp4.problem import Format, Op, Problem

from .samples import contest_records, entry, record


def stored(made):
    return json.loads(json.dumps(records.to_json(made)))


@pytest.mark.parametrize(
    "problem",
    [
        Problem(Op.GEMM, 128, 7168, 2048),
        Problem(Op.GEMV, 7168, 16, 2048, 4, b=Format("bf16"), out_dtype="fp32"),
        Problem(Op.DUAL_GEMM, 256, 4096, 7168, a=Format("nvfp4", "tiled", True)),
        Problem(Op.GROUP_GEMM, 512, 1024, 2048, stacked=8),
        GROUP_GEMM.problem(GROUP_GEMM.benchmarks[0]),
    ],
    ids=lambda problem: str(problem.op),
)
def test_round_trip(problem):
    made = record(problem, entry("nvfp4/sm90", "nvfp4", 500.0), entry("cublas-fp16", "peer", 700.0))
    assert records.from_json(stored(made)) == made


def test_file_round_trip(tmp_path):
    made = contest_records()
    path = tmp_path / "below" / "results.jsonl"
    records.append(path, made[:5])
    records.append(path, made[5:])
    assert records.load(path) == made
    assert records.load(tmp_path / "below") == made
    assert len(path.read_text().splitlines()) == len(made)


def test_derived_figures_are_stored():
    problem = Problem(Op.GEMM, 128, 7168, 16384)
    line = stored(record(problem, entry("nvfp4/sm90", "nvfp4", 60.8)))
    assert line["light_us"] == pytest.approx(30.4, abs=0.05)
    assert line["bound"] == "compute"
    assert line["official_us"] == pytest.approx(8.994)
    (ours,) = line["entries"]
    assert ours["median_us"] == 60.8
    assert ours["fraction"] == pytest.approx(0.5, abs=1e-3)
    assert ours["fault"] is False


def test_a_time_under_the_speed_of_light_is_flagged():
    line = stored(record(Problem(Op.GEMM, 128, 7168, 16384), entry("nvfp4/sm90", "nvfp4", 25.0)))
    assert line["entries"][0]["fault"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line["entries"][0].update(median_us=1.0), "median_us"),
        (lambda line: line["entries"][0].update(fraction=0.99), "fraction"),
        (lambda line: line["entries"][0].update(fault=True), "fault"),
        (lambda line: line["entries"][0]["samples_us"].append(3.0), "same number of samples"),
        (lambda line: line["entries"][0].update(samples_us=[]), "samples"),
        (lambda line: line["entries"][1].update(name="nvfp4/sm90"), "differ"),
        (lambda line: line["entries"][0].update(role="friend"), "role"),
        (lambda line: line.update(bytes=1), "bytes"),
        (lambda line: line.update(light_us=1.0), "light_us"),
        (lambda line: line["device"].pop("name"), "name is missing"),
        (lambda line: line.pop("commit"), "commit"),
        (lambda line: line["problem"].update(op="conv"), "conv"),
        (lambda line: line.update(schema=0), "schema"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change, message):
    problem = Problem(Op.GEMM, 128, 7168, 16384)
    line = stored(record(problem, entry("nvfp4/sm90", "nvfp4", 60.0), entry("cublas-fp16", "peer", 70.0)))
    change(line)
    with pytest.raises(RecordError, match=message):
        records.from_json(line)


def test_load_names_file_and_line(tmp_path):
    path = tmp_path / "h200.jsonl"
    records.append(path, contest_records()[:1])
    with path.open("a") as file:
        file.write('{"schema": 1}\n')
    with pytest.raises(RecordError, match=r"h200\.jsonl:2"):
        records.load(path)


def test_newest_keeps_one_of_each():
    problem = GEMM.problem(GEMM.benchmarks[0])
    old = record(problem, entry("nvfp4/sm90", "nvfp4", 60.0), time="2026-01-01T00:00:00Z")
    new = record(problem, entry("nvfp4/sm90", "nvfp4", 50.0), time="2026-01-03T00:00:00Z")
    other = record(GEMM.problem(GEMM.benchmarks[1]), entry("nvfp4/sm90", "nvfp4", 50.0))
    assert records.newest([new, old, other]) == (new, other)


def test_best_of_a_role_skips_wrong_answers():
    made = record(
        Problem(Op.GEMM, 128, 7168, 16384),
        entry("nvfp4/a", "nvfp4", 60.0, "bit-equal"),
        entry("nvfp4/b", "nvfp4", 40.0, "wrong: error over bound 12"),
        entry("cublas-fp16", "peer", 50.0),
    )
    assert made.best("nvfp4").name == "nvfp4/a"
    assert made.best("peer").name == "cublas-fp16"
    assert made.best("floor") is None


def test_provenance_without_a_gpu():
    assert provenance.versions()["torch"]
    assert provenance.describe_device("cpu") == {"name": "CPU", "arch": "cpu", "sms": 0}
    assert provenance.now().endswith("Z")
    name = provenance.commit()
    assert name == "unknown" or len(name.removesuffix("+changes")) == 40


def test_clocks_survive_fields_that_a_card_does_not_report(monkeypatch):
    answer = {"clocks.sm": "1980", "clocks.mem": "[N/A]", "power.draw": "612.5", "temperature.gpu": "51"}
    monkeypatch.setattr(provenance, "_smi", lambda fields, index: answer)
    assert provenance.clocks() == {"sm_mhz": 1980.0, "power_w": 612.5, "temperature_c": 51.0}
    monkeypatch.setattr(provenance, "_smi", lambda fields, index: {})
    assert provenance.clocks() == {}


def test_a_field_that_the_driver_does_not_know_does_not_cost_the_others(monkeypatch):
    def old_driver(fields, index):
        known = {"clocks.sm": "1410", "temperature.gpu": "40"}
        return {field: known[field] for field in fields} if set(fields) <= set(known) else {}

    monkeypatch.setattr(provenance, "_smi", old_driver)
    assert provenance.clocks() == {"sm_mhz": 1410.0, "temperature_c": 40.0}

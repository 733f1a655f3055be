"""Mixtures of experts: routing, what a run times and checks (on the CPU), its records and its table."""

import dataclasses
import json
import sys
import types

import pytest
import torch

from nvfp4.bench import mixture, model_tables, records, tables
from nvfp4.bench.mixture import Case, Layer
from nvfp4.bench.run import Environment, Settings
from nvfp4.errors import InputError
from nvfp4.problem import Op
from nvfp4.tensor import NVFP4Tensor

GATE = Layer("test gate and up", 6, 32, 64, dual=True)
DOWN = Layer("test down", 6, 48, 32, gathered=False)
PRODUCT = Layer("test product", 6, 32, 64)
SETTINGS = Settings(backends=("torch_ops",), max_samples=3, calls=2, commit="0123456789")


@pytest.mark.parametrize("name", mixture.ROUTINGS)
def test_routing_is_a_permutation_by_expert(name):
    case = Case(dataclasses.replace(PRODUCT, experts=64), 50, 4, name)
    routing = mixture.route(case)
    assert all(len(set(row)) == 4 for row in routing.experts.tolist())
    assert sorted(routing.order.tolist()) == list(range(200))
    flat = routing.experts.flatten()[routing.order]
    assert torch.equal(flat, flat.sort().values)
    assert torch.equal(torch.bincount(flat, minlength=64).cumsum(0).int(), routing.ends)
    assert routing.active == flat.unique().numel()
    again = mixture.route(case)
    assert torch.equal(routing.experts, again.experts)
    assert not torch.equal(routing.experts, mixture.route(dataclasses.replace(case, seed=1)).experts)


def test_uniform_is_even_and_skewed_is_not():
    many = Case(dataclasses.replace(PRODUCT, experts=64), 4096, 4)
    even = mixture.route(many).experts.flatten().bincount(minlength=64)
    assert even.min() > 180  # of 256 expected, with a deviation of 16
    assert even.max() < 340
    skewed = mixture.route(dataclasses.replace(many, routing="skewed")).experts.flatten().bincount(minlength=64)
    assert skewed.max() > 5 * skewed.float().mean()
    assert skewed.min() < 0.5 * skewed.float().mean()


def test_wrong_routings_are_errors():
    with pytest.raises(InputError, match="uniform"):
        mixture.route(Case(PRODUCT, 4, 2, "zipf"))
    with pytest.raises(InputError, match="at most 6"):
        mixture.route(Case(PRODUCT, 4, 7))


@pytest.mark.parametrize("layer", [PRODUCT, GATE, DOWN], ids=lambda layer: layer.name)
def test_a_run_checks_everything_and_counts_active_experts(tmp_path, layer):
    path = tmp_path / "records.jsonl"
    cases = mixture.cases([layer], [3, 5], [2], ["uniform", "skewed"])
    found = list(mixture.bench(cases, SETTINGS, Environment.dry(), path=path))
    assert [case for case, _ in found] == list(cases)
    for case, record in found:
        assert record.problem == case.problem
        assert record.problem.tokens == (case.tokens if layer.gathered else 0)
        assert record.problem.op is (Op.GROUP_DUAL_GEMM if layer.dual else Op.GROUP_GEMM)
        assert record.workload.active == mixture.route(case).active
        assert record.bytes == record.problem.bytes_of(record.workload.active) <= record.problem.bytes
        names = {entry.name for entry in record.entries}
        assert {"nvfp4/torch_ops", "cublas-loop", "grouped-mm"} <= names
        assert ("nvfp4/torch_ops, gathered" in names) == layer.gathered
        assert record.entry("nvfp4/torch_ops").right
        assert ("rows gathered first" in record.entry("nvfp4/torch_ops").detail) == layer.gathered
        if layer.gathered:
            assert "rows gathered first" not in record.entry("nvfp4/torch_ops, gathered").detail
            assert record.entry("nvfp4/torch_ops, gathered").right
        assert not any(entry.wrong for entry in record.entries)
        assert "needs a GPU" in record.refusals["humming-indexed"]
    assert records.load(path) == tuple(record for _, record in found)
    # 3 tokens twice: the same sizes, told apart by their routing.
    assert len(records.newest(records.load(path))) == 4


def test_what_a_kernel_is_asked_for_a_workload_may_change():
    """Rows that were gathered once, and tokens by index today, are the same row of a table."""
    ((_, record),) = mixture.bench([Case(PRODUCT, 3, 2)], SETTINGS, Environment.dry())
    earlier = dataclasses.replace(
        record, problem=dataclasses.replace(record.problem, tokens=0), time="2020-01-01T00:00:00+00:00"
    )
    assert records.newest([record, earlier]) == records.newest([earlier, record]) == (record,)


def test_a_wrong_index_is_found(monkeypatch):
    plain = mixture.Tensors.operands

    def shifted(self, problem, weights, out):
        made = plain(self, problem, weights, out)
        return dataclasses.replace(made, rows=made.rows.roll(1)) if problem.tokens else made

    class Shifted(mixture._Answers):
        expected = property(lambda self: mixture.expected(self.case.problem, plain(self.first, *self.arguments)))

        @property
        def arguments(self):
            return self.case.problem, self.weights, self.out

    monkeypatch.setattr(mixture, "_Answers", Shifted)
    monkeypatch.setattr(mixture.Tensors, "operands", shifted)
    ((_, record),) = mixture.bench([Case(PRODUCT, 3, 2)], SETTINGS, Environment.dry())
    assert record.entry("nvfp4/torch_ops").wrong
    assert not record.entry("nvfp4/torch_ops, gathered").wrong


def test_a_wrong_answer_is_found(monkeypatch):
    monkeypatch.setattr(mixture, "_loop", lambda case, weights: lambda operands: lambda: operands.rows.new_ones(6, 32))
    monkeypatch.setattr(
        mixture.backends.get("torch_ops"), "run", lambda plan, problem, made: made.out[0].fill_(1.0), raising=False
    )
    ((_, record),) = mixture.bench([Case(PRODUCT, 3, 2)], SETTINGS, Environment.dry())
    assert record.entry("cublas-loop").wrong
    assert record.entry("nvfp4/torch_ops").wrong
    assert not record.entry("grouped-mm").wrong


def test_what_fails_is_a_refusal(monkeypatch):
    def fail(case, weights):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(mixture, "_grouped_mm", lambda case, weights: lambda operands: fail(case, weights))
    settings = dataclasses.replace(SETTINGS, peers=("grouped-mm", "cublas-loop"))
    ((_, record),) = mixture.bench([Case(PRODUCT, 3, 2)], settings, Environment.dry())
    assert "no such kernel" in record.refusals["grouped-mm"]
    assert record.entry("cublas-loop") is not None


def test_weights_that_fit_into_the_cache_are_an_error():
    env = dataclasses.replace(Environment.dry(), l2_bytes=1 << 20)
    with pytest.raises(InputError, match="twice the L2"):
        list(mixture.bench([Case(PRODUCT, 3, 2)], SETTINGS, env))


def test_an_index_of_blocks_names_every_row_once():
    from nvfp4.bench.humming import aligned

    experts = torch.tensor([[0, 2], [2, 5], [2, 0], [4, 2]])
    ids, blocks = aligned(experts, 6, 4)
    assert blocks.tolist() == [0, 2, 4, 5]
    assert ids.view(4, 4).tolist() == [[0, 5, 8, 8], [1, 2, 4, 7], [6, 8, 8, 8], [3, 8, 8, 8]]
    ids, blocks = aligned(experts, 6, 2)
    assert blocks.tolist() == [0, 2, 2, 4, 5]
    assert sorted(x for x in ids.tolist() if x < 8) == list(range(8))


def test_the_table_has_a_row_for_each_case():
    found = [r for _, r in mixture.bench(mixture.cases([GATE, DOWN], [3, 5], [2]), SETTINGS, Environment.dry())]
    text = model_tables.mixture_table(found, "cpu", "back-to-back")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 8
    assert "cublas-loop / ours" in lines[0]
    assert "64 x 64" in text  # gate and up together
    assert "48 x 32" in text
    assert model_tables.mixture_table(found, "nvidia-h200", "back-to-back") == tables.NONE


class FakeLayer:
    """Stands for `humming.layer.HummingLayer` over experts: follows the index or the layout that it is given."""

    def __init__(self, shape_n, shape_k, weight_config, num_experts, torch_dtype):
        self.experts, self.humming_config = num_experts, (shape_n, shape_k)

    def to(self, device):
        return self

    def load_from_tensors(self, tensors):
        scale = tensors["weight_scale_2"].view(-1, 1, 1)
        self.weights = NVFP4Tensor(tensors["weight"], tensors["weight_scale"]).dequantize() * scale

    def transform(self):
        pass

    def __call__(self, x, compute_config, tuning_config, expert_layout=None, **index):
        assert json.loads(tuning_config) == {"block_shape": [4, 64, 64]}
        if expert_layout is not None:
            assert json.loads(compute_config) == {"gemm_type": "grouped_contiguous"}
            sizes = (expert_layout[1:] - expert_layout[:-1]).tolist()
            return torch.cat([a.float() @ b.T for a, b in zip(x.split(sizes), self.weights, strict=True)]).bfloat16()
        assert json.loads(compute_config) == {"gemm_type": "indexed"}
        rows, top_k = x.shape[0] * index["top_k"], index["top_k"]
        assert int(index["num_tokens_padded"]) == index["sorted_ids"].numel() == 4 * index["expert_ids"].numel()
        out = torch.full((rows, self.weights.shape[1]), torch.nan, dtype=torch.bfloat16)
        for ids, expert in zip(index["sorted_ids"].view(-1, 4).tolist(), index["expert_ids"].tolist(), strict=True):
            for i in ids:
                if i < rows:
                    out[i] = (x[i // top_k].float() @ self.weights[expert].T).bfloat16()
        return out


@pytest.mark.parametrize("layer", [PRODUCT, GATE, DOWN], ids=lambda layer: layer.name)
def test_humming_gets_its_index_and_its_layout(monkeypatch, layer):
    def module(name, **members):
        made = types.ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)

    def process_input(x, activation_type, activation_impl):
        assert activation_type == "binary_split"
        assert "expf(-a)" in activation_impl
        gate, up = x.float().chunk(2, dim=1)
        return (torch.nn.functional.silu(gate) * up).bfloat16(), None, None

    module("humming")
    module("humming.layer", HummingLayer=FakeLayer)
    module("humming.ops", process_input=process_input)
    module("humming.tune", get_heuristics_config=lambda *_, **__: {"block_shape": [4, 64, 64]})
    monkeypatch.setattr(mixture, "_refuse_peer", lambda name, env: None)
    settings = dataclasses.replace(SETTINGS, peers=("humming-indexed", "humming-grouped"))
    for _, record in mixture.bench(mixture.cases([layer], [5], [2]), settings, Environment.dry()):
        for name in settings.peers:
            entry = record.entry(name)
            assert entry is not None, record.refusals
            assert entry.right, entry.verdict

"""Bundles: one file that needs no nvfp4, keeps the rules, and whose own sources are right in the emulator."""

import ast
import ctypes
import importlib.util
import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from nvfp4.contest import inputs, lint
from nvfp4.contest.bundle import blank, bundle, rename
from nvfp4.contest.cases import parse_line
from nvfp4.contest.evaluate import Options, evaluate
from nvfp4.contest.tasks import GEMM, GEMV, GROUP_GEMM, TASKS
from nvfp4.errors import InputError, UnsupportedError

LINES = {
    "nvfp4_gemv": "m: 128; k: 256; l: 2",
    "nvfp4_gemm": "m: 128; n: 64; k: 256; l: 1",
    "nvfp4_dual_gemm": "m: 64; n: 64; k: 256; l: 1",
    "nvfp4_group_gemm": "m: [40, 72]; n: [64, 128]; k: [256, 512]; g: 2",
}


def write(tmp_path, task, arch="sm_90a", strategy="sm80", **changes):
    cases = (parse_line(task, LINES[task.name]),)
    made = bundle(task, arch, strategy=strategy, cases=cases, **changes)
    path = tmp_path / "submission.py"
    path.write_text(made.text)
    return path, cases


def load(path):
    spec = importlib.util.spec_from_file_location("submission_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_whole_bundles_keep_the_rules(task, arch):
    made = bundle(task, arch)
    assert {backend for _, backend, _ in made.plans} == {arch[:-1].replace("_", "")}
    assert lint.check(made.text, task) == ()
    assert made.launches == 1
    tree = ast.parse(made.text)
    assert "nvfp4" not in {name.partition(".")[0] for _, name in lint._imports(tree)}
    assert {case for case, _, _ in made.plans} == {*task.tests, *task.benchmarks}
    header = ast.get_docstring(tree)
    assert f"nvfp4 contest bundle {task.name} --arch {arch}" in header
    assert all(rename(f"{backend}: {plan}") in header for _, backend, plan in made.plans)


def test_the_same_bundle_is_made_again(monkeypatch):
    monkeypatch.setattr("nvfp4.contest.bundle.commit", lambda: "0123abc")
    assert bundle(GEMM, "sm_90a", strategy="sm80").text == bundle(GEMM, "sm_90a", strategy="sm80").text


_ALONE = """
import runpy, sys

class Nobody:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "nvfp4", "a bundle imports nvfp4"

sys.meta_path.insert(0, Nobody())
module = runpy.run_path(sys.argv[1])
assert callable(module["custom_kernel"])
print(*(name for name in module["KERNELS"] if b".entry" in module["compile_kernel"](name, "ptx")))
"""


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100a"])
def test_bundles_need_no_nvfp4(tmp_path, arch):
    path, _ = write(tmp_path, GROUP_GEMM, arch, "auto")
    found = subprocess.run([sys.executable, "-c", _ALONE, str(path)], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == set(load(path).KERNELS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bundles_are_right_in_the_emulator(tmp_path, task):
    path, cases = write(tmp_path, task)
    result = evaluate(path, task, Options(cases=cases, emulate=True, limit=100, threads=1))
    assert result.ok, result.failed
    assert result.outcomes[0].checked == 9


@pytest.mark.parametrize(("arch", "strategy"), [("sm_90a", "sm90"), ("sm_100a", "sm100")])
def test_maps_clusters_and_scratch_are_right_in_the_emulator(tmp_path, arch, strategy):
    path, cases = write(tmp_path, GEMM, arch, strategy)
    assert "'maps'" in path.read_text()
    result = evaluate(path, GEMM, Options(cases=cases, emulate=True, limit=100, threads=1, strict=False))
    assert result.ok, result.failed


@pytest.mark.parametrize(("arch", "strategy"), [("sm_90a", "sm80"), ("sm_90a", "sm90"), ("sm_100a", "sm100")])
def test_vectors_of_a_batch_are_taken_where_the_contest_has_them(tmp_path, arch, strategy):
    path, cases = write(tmp_path, GEMV, arch, strategy)
    ((_, _, *steps),) = load(path).PROGRAMS.values()
    assert len(steps) == 1
    result = evaluate(path, GEMV, Options(cases=cases, emulate=True, limit=100, threads=1))
    assert result.ok, result.failed


def test_a_wrong_kernel_in_a_bundle_is_found_in_the_emulator(tmp_path):
    path, cases = write(tmp_path, GEMM)
    text = path.read_text()
    broken = text.replace("b_scales + l * scale_matrix_bytes", "a_scales + l * scale_matrix_bytes")
    assert broken != text
    path.write_text(broken)
    result = evaluate(path, GEMM, Options(cases=cases, emulate=True, limit=100, threads=1))
    assert not result.ok
    assert result.failed[0].kind in ("wrong", "crash")


def test_other_sizes_are_refused_by_name(tmp_path):
    path, _ = write(tmp_path, GEMM)
    module = load(path)
    module.EXECUTOR = lambda steps, tensors: None
    with pytest.raises(ValueError, match="no kernel for the sizes"):
        module.custom_kernel(inputs.generate(GEMM, parse_line(GEMM, "m: 64; n: 64; k: 64; l: 1")))


def test_the_forbidden_word_is_replaced_with_its_capitals():
    assert rename("stream Stream STREAM StreamK ld_stream.cuh") == "strand Strand STRAND StrandK ld_strand.cuh"


def test_what_cannot_be_bundled():
    with pytest.raises(UnsupportedError):
        bundle(GEMM, "sm_100a", strategy="sm90")
    with pytest.raises(InputError, match="one of"):
        bundle(GEMM, "sm_1a")


class FakeDriver:
    """What a bundle calls, without a GPU: success, and a note of the launches."""

    launches: ClassVar[list[tuple]] = []

    def __getattr__(self, name):
        return lambda *arguments: self.launches.append((name, *arguments)) or 0


@pytest.mark.parametrize("task", [GEMM, GROUP_GEMM], ids=lambda task: task.name)
def test_a_call_writes_addresses_and_launches(tmp_path, monkeypatch, task):
    path, cases = write(tmp_path, task)
    module = load(path)
    driver = FakeDriver()
    driver.launches.clear()
    monkeypatch.setattr(module, "_driver", lambda: driver)
    monkeypatch.setattr(module, "_function", lambda name: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    first, second = (inputs.generate(task, cases[0], seed=seed) for seed in (1, 2))
    result = module.custom_kernel(first)
    assert len([c for c in driver.launches if c[0] == "cuLaunchKernelEx"]) == 1
    for data in (first, second):
        result = module.custom_kernel(data)
        _, _, _, pointers, _ = driver.launches[-1]
        ((_, _, *steps),) = module.PROGRAMS.values()
        arguments = steps[0][7]
        places = (ctypes.c_void_p * len(arguments)).from_address(ctypes.cast(pointers, ctypes.c_void_p).value)
        words = []
        for place, argument in zip(places, arguments, strict=True):
            count = {"p": 1, "ps": argument[1]}.get(argument[0], 0)
            words += (ctypes.c_uint64 * count).from_address(place)
        tensors, outputs = inputs.tensors(task, data)
        assert [x.data_ptr() for x in (result if task is GROUP_GEMM else [result])] == [c.data_ptr() for c in outputs]
        used = {x.data_ptr() for x in outputs} | {x.data_ptr() for x in tensors}
        assert {word for word in words if word} <= used
        assert {c.data_ptr() for c in outputs} <= set(words)
    assert len([c for c in driver.launches if c[0] == "cuLaunchKernelEx"]) == 3
    assert len(module._ready) == 2


def test_several_launches_and_their_errors(tmp_path, monkeypatch):
    path, cases = write(tmp_path, GEMM)
    module = load(path)
    key, (count, sizes, step) = module.PROGRAMS.popitem()
    module.PROGRAMS[key] = (count, sizes, step, step)
    driver = FakeDriver()
    driver.launches.clear()
    monkeypatch.setattr(module, "_driver", lambda: driver)
    monkeypatch.setattr(module, "_function", lambda name: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    data = inputs.generate(GEMM, cases[0])
    for calls in (2, 4):
        module.custom_kernel(data)
        assert [name for name, *_ in driver.launches] == ["cuLaunchKernelEx"] * calls
    monkeypatch.setattr(FakeDriver, "__getattr__", lambda self, name: lambda *_: 719)
    module._ready.clear()
    module._last.clear()
    with pytest.raises(RuntimeError, match="launch: error 719"):
        module.custom_kernel(data)


def test_addresses_are_collected_in_the_order_of_the_tensors_numbers(tmp_path):
    path = tmp_path / "submission.py"
    path.write_text(bundle(GROUP_GEMM, "sm_90a", strategy="sm80").text)
    module = load(path)
    assert set(module.COLLECT) == {len(case.groups) for case in (*GROUP_GEMM.tests, *GROUP_GEMM.benchmarks)}
    for count, collect in module.COLLECT.items():
        case = next(case for case in GROUP_GEMM.tests + GROUP_GEMM.benchmarks if len(case.groups) == count)
        data = blank(GROUP_GEMM, case)
        addresses, results = collect(data)
        assert addresses == tuple(x.data_ptr() for x in module._tensors(data))
        assert (addresses, list(map(id, results))) == (module._collect(data)[0], [id(c) for _, _, c in data[0]])


def test_memory_that_has_become_another_size_is_laid_out_anew(tmp_path, monkeypatch):
    cases = tuple(parse_line(GEMM, f"m: {m}; n: 64; k: 256; l: 1") for m in (128, 64))
    path = tmp_path / "submission.py"
    path.write_text(bundle(GEMM, "sm_90a", strategy="sm80", cases=cases).text)
    module = load(path)
    monkeypatch.setattr(module, "_driver", FakeDriver)
    monkeypatch.setattr(module, "_function", lambda name: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    large = inputs.generate(GEMM, cases[0])
    small = tuple(x[:64] if x.dim() == 3 and x.shape[0] == 128 else x for x in large)
    assert [x.data_ptr() for x in small] == [x.data_ptr() for x in large]
    half = (*large[:1], *inputs.generate(GEMM, cases[0], seed=5)[1:])  # the same A, another B
    for data in (large, half, large, half):
        module.custom_kernel(data)
    assert len(module._ready) == 2
    module._ready.clear()
    module._last.clear()
    for data in (large, small, large):
        module.custom_kernel(data)
        ((_, sizes, _, _),) = module._ready.values()
        assert sizes[0] == data[0].shape
    assert len(module._launches) == 2

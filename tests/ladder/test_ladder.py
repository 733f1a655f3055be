"""Every rung is exact in the emulator under all its checks, and is what its ladder says."""

import pytest
import torch
from typer.testing import CliRunner

from nvfp4 import jit
from nvfp4.check.verdict import expected, judge
from nvfp4.cli import app
from nvfp4.errors import InputError, LaunchError
from nvfp4.executors import emulated
from nvfp4.ladder import run, rungs

SHAPES = {"gemv": (45, 1, 2048), "matmul-hopper": (256, 128, 320), "matmul-blackwell": (256, 128, 1280)}


def judged(ladder, build, shape, seed=0):
    problem = ladder.problem(shape)
    data, operands = run.make(problem, 7, "cpu")
    data.c.fill_(float("nan"))
    (report,) = emulated.emulate([build(data, ladder.arch)], seed=seed)
    return judge(problem, operands, wants=expected(problem, operands)), report


@pytest.mark.parametrize("ladder", rungs.LADDERS, ids=lambda ladder: ladder.name)
def test_every_rung_is_exact_under_all_checks(ladder):
    shape = SHAPES[ladder.name]
    for rung in ladder.rungs:
        rung.check(ladder.problem(shape))
        verdict, report = judged(ladder, rung.build, shape, seed=3)
        assert verdict.ok, (rung.name, verdict)
        assert verdict.exact == verdict.elements, "the data must be such that nothing but bit equality is right"
        assert report.clean


PERSISTENT = {
    "hopper_7": (rungs.HOPPER, rungs._matmul("hopper_7", (256, 128), 640, rungs._HOPPER_6, blocks=1), (512, 256, 256)),
    "blackwell_6": (
        rungs.BLACKWELL,
        rungs._tensor_cores("blackwell_6", 6 * rungs._PAIR_STAGE, pair=True, pairs=1, threads=192),
        (512, 384, 512),
    ),
}


@pytest.mark.parametrize("name", PERSISTENT)
def test_persistent_rungs_take_one_tile_after_another(name):
    ladder, build, shape = PERSISTENT[name]
    verdict, _ = judged(ladder, build, shape)
    assert verdict.ok, verdict


def test_the_steps_do_what_they_say():
    hopper = {step.rung.name: step.counters for step in run.emulate(rungs.HOPPER, (256, 128, 256))}
    assert hopper["hopper_1"]["shared_wavefronts"] == 8 * hopper["hopper_2"]["shared_wavefronts"]
    assert hopper["hopper_3"]["shared_wavefronts"] < hopper["hopper_2"]["shared_wavefronts"] / 2
    assert hopper["hopper_6"]["global_load_bytes"] < hopper["hopper_5"]["global_load_bytes"] or (
        hopper["hopper_6"]["async_copy_bytes"] < hopper["hopper_5"]["async_copy_bytes"]
    )
    blackwell = {step.rung.name: step.counters for step in run.emulate(rungs.BLACKWELL, (256, 128, 512))}
    assert blackwell["blackwell_1"]["shared_wavefronts"] > 100 * blackwell["blackwell_2"]["shared_wavefronts"]
    assert blackwell["blackwell_5"]["async_copy_bytes"] < blackwell["blackwell_4"]["async_copy_bytes"]
    gemv = {step.rung.name: step.counters for step in run.emulate(rungs.GEMV, (60, 1, 4096))}
    assert gemv["gemv_0"]["global_sectors"] > 5 * gemv["gemv_1"]["global_sectors"]
    assert gemv["gemv_3"]["steps"] < gemv["gemv_1"]["steps"] / 4


@pytest.mark.parametrize("ladder", rungs.LADDERS, ids=lambda ladder: ladder.name)
def test_rungs_are_short_and_keep_everything_in_registers(ladder):
    data, _ = run.make(ladder.problem(SHAPES[ladder.name]), 1, "cpu")
    for rung in ladder.rungs:
        launch = rung.build(data, ladder.arch)
        text = jit.source.read(f"kernels/{launch.kernel.source}")
        assert text.startswith(f"// {rung.name}: ")
        assert len(text.splitlines()) <= 200
        resources = jit.compile(launch.kernel, "cubin").resources
        assert (resources.spill_store_bytes, resources.spill_load_bytes) == (0, 0), rung.name
        assert launch.shared_bytes + resources.shared_bytes <= 227 * 1024


def test_a_broken_rung_is_found(monkeypatch):
    read = jit.source.read

    def broken(name, *arguments):
        text = read(name, *arguments)
        if "hopper_5" not in name:
            return text
        assert "wait(ring.empty(stage)" in text
        return text.replace("wait(ring.empty(stage)", "if (chunk < 0) wait(ring.empty(stage)")

    monkeypatch.setattr(jit.source, "read", broken)
    emulated._module.cache_clear()
    ladder = rungs.HOPPER
    (rung,) = [rung for rung in ladder.rungs if rung.name == "hopper_5"]
    with pytest.raises(LaunchError, match="race"):
        judged(ladder, rung.build, (128, 128, 640))
    emulated._module.cache_clear()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="multiple of 128"):
        rungs.HOPPER.rungs[1].check(rungs.HOPPER.problem((100, 128, 64)))
    with pytest.raises(InputError, match="matmul for sm_90a"):
        rungs.ladder("conv")


def test_the_command(tmp_path):
    result = CliRunner().invoke(app, ["ladder", "gemv", "--emulate", "--shape", "30x1024"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("bit-equal") == len(rungs.GEMV.rungs)
    assert "there is no sm_90a GPU" not in result.stderr
    shown = CliRunner().invoke(app, ["ladder", "matmul", "--show", "hopper_2"])
    assert shown.stdout.startswith("// hopper_2: the 128-byte swizzle")
    assert CliRunner().invoke(app, ["ladder", "matmul", "--show", "gemv_1"]).exit_code != 0


def test_without_its_gpu_a_ladder_is_emulated(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["ladder", "gemv", "--shape", "30x1024"])
    assert result.exit_code == 0, result.output
    assert "there is no sm_90a GPU here" in result.stderr
    assert result.stdout.count("bit-equal") == len(rungs.GEMV.rungs)
    refused = CliRunner().invoke(app, ["ladder", "gemv", "--record", str(tmp_path / "r.jsonl")])
    assert isinstance(refused.exception, InputError)


@pytest.mark.gpu
def test_rungs_on_a_gpu():
    for ladder in (rungs.GEMV, rungs.HOPPER):
        if torch.cuda.get_device_capability() != (9, 0):
            pytest.skip("the rungs that are timed are Hopper's")
        steps, record = run.time(ladder, max_samples=3, calls=2, commit="test")
        assert all(step.ok for step in steps), steps
        assert len(record.entries) == len(ladder.rungs) + 1

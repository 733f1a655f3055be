"""The driver executor on a GPU: parameters, clusters, dependent launches, tensor maps, threads, errors."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.executors import probes

from nvfp4.device import capability
from nvfp4.errors import CompileError, InputError, LaunchError
from nvfp4.executors import driver, parameters
from nvfp4.executors.launch import Argument, Kernel, Launch, Pointer, Scalar, TensorMap

pytestmark = pytest.mark.gpu


def launch(entry: str, *args: Argument, **rest) -> Launch:
    return probes.launch(capability("cuda").arch, entry, *args, **rest)


def hopper() -> None:
    if capability("cuda").compute < (9, 0):
        pytest.skip("needs compute capability 9.0")


def test_parameters_of_every_kind():
    args, out, expected = probes.every_parameter("cuda")
    driver.run([launch("probe_parameters", *args)])
    assert out.tolist() == expected


@pytest.mark.parametrize("programmatic", [False, True])
def test_launches_run_in_order(programmatic):
    if programmatic:
        hopper()
    out = torch.zeros(1, dtype=torch.int64, device="cuda")
    driver.run([launch("probe_increment", Pointer(out), grid=4, programmatic=programmatic)] * 200)
    assert out.item() == 200


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_clusters(size):
    hopper()
    out = torch.zeros(32, dtype=torch.int64, device="cuda")
    driver.run([launch("probe_cluster", Pointer(out), grid=32, cluster=(size, 1, 1))])
    assert out.tolist() == [i % size * 100 + size for i in range(32)]


@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
def test_tensor_maps(swizzle):
    hopper()
    args, out, expected = probes.box(swizzle, "cuda")
    driver.run([launch("probe_tensor_map", *args, threads=128, shared_bytes=2048)])
    assert torch.equal(out.cpu(), expected)


def test_a_prepared_launch_follows_addresses_and_maps():
    hopper()
    sources = [torch.randint(0, 256, (8, 128), dtype=torch.uint8, device="cuda") for _ in range(3)]
    out = torch.zeros(1024, dtype=torch.uint8, device="cuda")
    tensor_map = TensorMap(sources[0], "u8", (128, 8), (128,), (128, 8))
    arguments = (Pointer(out), tensor_map, Scalar("i32", 0), Scalar("i32", 0), Scalar("i32", 1024))
    prepared = driver.prepare(launch("probe_tensor_map", *arguments, threads=128, shared_bytes=1024))
    for source in (*sources, *sources):
        prepared.run((out.data_ptr(), source.data_ptr()), driver.current_queue(0))
        assert torch.equal(out, source.flatten())


def test_follows_the_current_queue():
    out = torch.zeros(1, dtype=torch.int64, device="cuda")
    torch.cuda.synchronize()
    queue = torch.cuda.Stream()
    with torch.cuda.stream(queue):
        assert driver.current_queue(0) == queue.cuda_stream
        torch.cuda._sleep(20_000_000)
        out.fill_(41)
        driver.run([launch("probe_increment", Pointer(out))])
    queue.synchronize()
    assert out.item() == 42


def test_threads_share_a_prepared_launch():
    outs = [torch.zeros(1, dtype=torch.int64, device="cuda") for _ in range(8)]
    torch.cuda.synchronize()
    prepared = driver.prepare(launch("probe_increment", Pointer(outs[0])))
    errors: list[BaseException] = []

    def work(address: int) -> None:
        try:
            for _ in range(300):
                prepared.run((address,), 0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(out.data_ptr(),)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert not errors
    assert [out.item() for out in outs] == [300] * 8


def test_a_prepared_launch_keeps_no_tensor():
    out = torch.zeros(1 << 20, dtype=torch.int64, device="cuda")
    before = torch.cuda.memory_allocated()
    prepared = driver.prepare(launch("probe_increment", Pointer(out)))
    size = out.nbytes
    del out
    assert torch.cuda.memory_allocated() == before - size
    assert "probe_increment" in prepared.description


def test_impossible_launches_are_errors_that_name_the_kernel():
    out = torch.zeros(1, dtype=torch.int64, device="cuda")
    with pytest.raises(LaunchError, match=r"probe_increment.*block \(2048, 1, 1\)"):
        driver.run([launch("probe_increment", Pointer(out), threads=2048)])
    with pytest.raises(LaunchError, match="bytes of shared memory"):
        driver.run([launch("probe_increment", Pointer(out), shared_bytes=10**7)])
    with pytest.raises(InputError, match="at least 1"):
        driver.run([launch("probe_increment", Pointer(out), grid=0)])
    with pytest.raises(InputError, match="multiple of the cluster"):
        driver.run([launch("probe_increment", Pointer(out), grid=3, cluster=(2, 1, 1))])
    with pytest.raises(InputError, match="one CUDA device"):
        driver.run([launch("probe_increment", Pointer(torch.zeros(1)))])
    with pytest.raises(LaunchError, match="no_such_kernel"):
        driver.run([launch("no_such_kernel", Pointer(out))])
    with pytest.raises(CompileError):
        driver.run(
            [Launch(Kernel("probe.cu", "x", (), capability("cuda").arch), (1, 1, 1), (1, 1, 1), (Pointer(out),))]
        )
    driver.run([launch("probe_increment", Pointer(out))])
    assert out.item() == 1


def test_a_tensor_map_that_the_driver_rejects():
    hopper()
    source = torch.zeros(8, 100, dtype=torch.uint8, device="cuda")
    out = torch.zeros(1024, dtype=torch.uint8, device="cuda")
    tensor_map = TensorMap(source, "u8", (100, 8), (100,), (64, 8))  # a stride that is no multiple of 16
    arguments = (Pointer(out), tensor_map, Scalar("i32", 0), Scalar("i32", 0), Scalar("i32", 512))
    with pytest.raises(LaunchError, match=r"strides \(100,\)"):
        driver.run([launch("probe_tensor_map", *arguments, shared_bytes=1024)])


def test_tensors_of_a_launch_are_in_the_order_of_a_call():
    out = torch.zeros(1, dtype=torch.int64, device="cuda")
    (tensor,) = parameters.tensors(launch("probe_increment", Pointer(out)).args)
    assert tensor is out

import itertools
import math
import random
import subprocess
import sys

import pytest
import torch

from nvfp4.errors import InputError
from nvfp4.reference import exact
from nvfp4.reference.exact import Rows, products
from nvfp4.tensor import NVFP4Tensor

from .samples import activation, check, integers, operand


@pytest.mark.parametrize("scale_bytes", [(0, 0x7F), (0, 1), (1, 2), (0x7E, 0x7F), (0x30, 0x40), (0, 8)])
@pytest.mark.parametrize("k", [16, 32, 256, 4096])
def test_nvfp4_is_exact(k: int, scale_bytes: tuple[int, int]) -> None:
    low, high = scale_bytes
    a, b = operand(3, k, low=low, high=high, seed=1), operand(4, k, seed=2, low=low, high=high)
    check(products(Rows(a), Rows(b)), integers(a), integers(b))


def wide_pair(k: int) -> tuple[NVFP4Tensor, NVFP4Tensor]:
    """The widest sums: 6 * 448 everywhere, but one element of each row the smallest, 0.5 * 2^-9."""
    codes = torch.full((2, k // 2), 0x77, dtype=torch.uint8)
    scales = torch.full((2, k // 16), 0x7E, dtype=torch.uint8)
    codes[0, -8:] = 0x11
    codes[1, :8] = 0x01
    scales[0, -1] = scales[1, 0] = 1
    return NVFP4Tensor(codes, scales), NVFP4Tensor(codes.flip(0).contiguous(), scales.flip(0).contiguous())


@pytest.mark.parametrize("k", [64, 1184, 16384, 65536])
def test_extreme_scales_need_and_get_more_than_float64(k: int) -> None:
    a, b = wide_pair(k)
    got = products(Rows(a), Rows(b))
    check(got, integers(a), integers(b))
    if k >= 65536:
        assert bool(got.residual.any())  # otherwise this test would not need the residual
        plain = a.dequantize(torch.float64) @ b.dequantize(torch.float64).T
        assert torch.allclose(plain, got.value)


def test_cancellation_leaves_the_small_part() -> None:
    """Large products cancel exactly; what remains is the product of the two smallest values, 2^-20."""
    k = 16384
    codes_a = torch.full((1, k // 2), 0x77, dtype=torch.uint8)
    codes_b = codes_a.clone()
    codes_b[:, k // 4 :] = 0xFF  # the other half negative
    codes_a[0, 0], codes_b[0, 0] = 0x71, 0x71
    codes_a[0, -1], codes_b[0, -1] = 0x70, 0xF0
    scales = torch.full((1, k // 16), 0x7E, dtype=torch.uint8)
    scales_a = scales.clone()
    a, b = NVFP4Tensor(codes_a, scales_a), NVFP4Tensor(codes_b, scales)
    assert float(products(Rows(a), Rows(b)).value) == 0.25 * 448 * 448
    # The same in a block of smallest scales.
    for data in (codes_a, codes_b):
        data[0, :8] = 0
        data[0, -8:] = 0
        data[0, 0] = 0x01
    low = scales.clone()
    low[0, 0] = 1
    a, b = NVFP4Tensor(codes_a, low), NVFP4Tensor(codes_b, low)
    got = products(Rows(a), Rows(b))
    assert float(got.value) == 2.0**-20
    assert float(got.magnitude) == pytest.approx((k - 32) * 2688.0**2)
    check(got, integers(a), integers(b))


@pytest.mark.parametrize("k", [16, 2048, 16384])
def test_fp16_activations_are_exact(k: int) -> None:
    x, b = activation(3, k, dtype=torch.float16), operand(3, k)
    x[0, 0], x[0, 1], x[1, -1] = 65504.0, 2.0**-24, -(2.0**-24)
    check(products(Rows(x), Rows(b)), integers(x), integers(b))


def test_bf16_activations_are_exact_over_60_bits_and_close_beyond() -> None:
    b = operand(3, 512)
    x = activation(3, 512, dtype=torch.bfloat16)
    check(products(Rows(x), Rows(b)), integers(x), integers(b))
    x[0, :4] = torch.tensor([3e38, 1e-40, -3e38, 1e-20])
    x[1, :2] = torch.tensor([1e-38, 9.2e-41])
    check(products(Rows(x), Rows(b)), integers(x), integers(b), bits=100)


@pytest.mark.parametrize(("left", "right"), [(0.3, None), (None, 7.7e-5), (0.3, 1e20), (1e-30, 1e-5), (0.25, 4.0)])
def test_tensor_scales(left: float | None, right: float | None) -> None:
    a, b = operand(3, 64, tensor_scale=left), operand(4, 64, seed=5, tensor_scale=right)
    check(products(Rows(a), Rows(b)), integers(a), integers(b), bits=100)
    unscaled = products(Rows(operand(3, 64)), Rows(operand(4, 64, seed=5)))
    assert torch.equal(products(Rows(a), Rows(b)).sums_exact, unscaled.sums_exact)


def test_layouts_do_not_matter() -> None:
    a, b = operand(130, 80), operand(140, 80, seed=1)
    want = products(Rows(a), Rows(b))
    got = products(Rows(a.to_layout("tiled")), Rows(b.to_layout("tiled")))
    for mine, theirs in zip(want._parts(), got._parts(), strict=True):
        assert torch.equal(mine, theirs)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = operand(50, 96), operand(70, 96, seed=1)
    want = products(Rows(a), Rows(b))
    monkeypatch.setattr(exact, "_LEFT_CHUNK", 96 * 7)
    monkeypatch.setattr(exact, "_RIGHT_CHUNK", 96 * 11)
    got = products(Rows(a), Rows(b))
    for mine, theirs in zip(want._parts(), got._parts(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 32), (3, 0, 32), (2, 2, 0), (0, 0, 0)])
def test_empty_products(m: int, n: int, k: int) -> None:
    got = products(Rows(operand(m, k)), Rows(operand(n, k)))
    assert got.value.shape == (m, n)
    assert not got.value.any()
    assert bool(got.sums_exact.all())


def test_rows_of_zeros() -> None:
    a = NVFP4Tensor(torch.full((2, 8), 0x80, dtype=torch.uint8), torch.ones(2, 1, dtype=torch.uint8))
    b = operand(3, 16, low=1)
    got = products(Rows(a), Rows(b))
    assert not got.value.any()
    assert bool(got.sums_exact.all())
    zero_scales = NVFP4Tensor(b.codes, torch.zeros(3, 1, dtype=torch.uint8))
    assert not products(Rows(b), Rows(zero_scales)).value.any()


def fp32_sums(terms: list[float], orders: int) -> set[float]:
    """What fp32 summation of the products gives in random orders, sequential and pairwise."""
    results = set()
    generator = random.Random(0)
    for _ in range(orders):
        generator.shuffle(terms)
        total = torch.zeros((), dtype=torch.float32)
        for term in terms:
            total = total + torch.tensor(term, dtype=torch.float32)
        results.add(float(total))
        level = torch.tensor(terms, dtype=torch.float32)
        while level.numel() > 1:
            level = level[0::2] + level[1::2]
        results.add(float(level))
    return results


def test_where_sums_are_said_to_be_exact_no_order_changes_them() -> None:
    k = 64
    seen = set()
    for low, high, seed in itertools.product([0x30, 0x38, 0], [0x3A, 0x48, 0x7F], range(2)):
        a, b = operand(2, k, low=low, high=high, seed=seed), operand(2, k, low=low, high=high, seed=seed + 9)
        got = products(Rows(a), Rows(b))
        left, right = a.dequantize(torch.float64), b.dequantize(torch.float64)
        for i, j in itertools.product(range(2), range(2)):
            flag = bool(got.sums_exact[i, j])
            seen.add(flag)
            if flag:
                assert fp32_sums((left[i] * right[j]).tolist(), 8) == {float(got.value[i, j])}
    assert seen == {True, False}


def test_where_orders_differ_sums_are_not_said_to_be_exact() -> None:
    a, b = wide_pair(1024)
    got = products(Rows(a), Rows(b))
    for i, j in itertools.product(range(2), range(2)):
        terms = (a.dequantize(torch.float64)[i] * b.dequantize(torch.float64)[j]).tolist()
        if len(fp32_sums(terms, 4)) > 1:
            assert not bool(got.sums_exact[i, j])
    assert not bool(got.sums_exact.all())


def test_the_flag_turns_at_2_to_the_24_units() -> None:
    """One code of 0.5 under a scale of 2^-6 makes the unit 2^-14: sums up to 1024 are exact. 48 products are 36 s^2."""
    k = 64
    for big, flag in ((0x38, False), (0x34, True)):  # s = 1, s = 0.75
        codes = torch.full((1, k // 2), 0x77, dtype=torch.uint8)
        codes[0, 0] = 0x71
        scales = torch.full((1, k // 16), big, dtype=torch.uint8)
        scales[0, 0] = 0x08
        one = NVFP4Tensor(codes, scales)
        got = products(Rows(one), Rows(one))
        unit = float(exact.lowest_set_bit(one.dequantize(torch.float64)).min()) ** 2
        assert (float(got.magnitude) < 2.0**24 * unit) is flag
        assert bool(got.sums_exact) is flag


def test_lowest_set_bit() -> None:
    values = torch.tensor([0.0, 0.5, 6.0, 10.0, -0.75, 448.0, 2.0**-133, 65504.0, 2.0**-24 * 3], dtype=torch.float64)
    want = [math.inf, 0.5, 2.0, 2.0, 0.25, 64.0, 2.0**-133, 32.0, 2.0**-24]
    assert exact.lowest_set_bit(values).tolist() == want
    dense = operand(40, 64)
    by_values = exact.lowest_set_bit(dense.dequantize(torch.float64)).amin(dim=1)
    assert torch.equal(Rows(dense).lowest_bits(0, 40), by_values)


def test_results_are_rounded_once_to_each_type() -> None:
    """1 + 2^-11 + 2^-20: a tie for float16 but for the last product."""
    x = torch.zeros(1, 16, dtype=torch.float16)
    x[0, :3] = torch.tensor([1.0, 2.0**-11, 2.0**-20])
    ones = NVFP4Tensor(torch.full((1, 8), 0x22, dtype=torch.uint8), torch.full((1, 1), 0x38, dtype=torch.uint8))
    got = products(Rows(x), Rows(ones))
    assert float(got.rounded(torch.float16)) == 1 + 2.0**-10
    assert float(got.rounded(torch.float32)) == 1 + 2.0**-11 + 2.0**-20
    assert got.rounded(torch.bfloat16).dtype == torch.bfloat16
    x[0, 2] = 0
    assert float(products(Rows(x), Rows(ones)).rounded(torch.float16)) == 1.0


def test_mismatched_k_is_refused() -> None:
    with pytest.raises(InputError, match="equal K"):
        products(Rows(operand(2, 32)), Rows(operand(2, 64)))


def test_full_size_fits_in_two_gigabytes() -> None:
    program = """
import re, torch
from nvfp4 import reference
from nvfp4.tensor import NVFP4Tensor
def operand(rows):
    codes = torch.randint(0, 256, (rows, 8192), dtype=torch.uint8)
    return NVFP4Tensor(codes, torch.randint(0, 127, (rows, 1024), dtype=torch.uint8), scale_layout="linear")
a, b = operand(128), operand(7168)
out = reference.gemm(a, b)
row = out.value[-1, -5:]
want = (a[127].dequantize(torch.float64) * b[7163:].dequantize(torch.float64)).sum(1)
assert torch.allclose(row, want, rtol=1e-9), (row, want)
# Not getrusage: what the parent had at the fork counts there.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2048

"""The instruction descriptor of tcgen05.mma and the rules on kinds, types and shapes (PTX ISA 9.7.16.4.2,
9.7.16.2.1, 9.7.16.10.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from nvfp4.emulator.units.errors import UnitError

_FLOAT8 = {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: "e2m1"}
_ELEMENTS: dict[str, dict[int, str]] = {
    "f16": {0: "f16", 1: "bf16"},
    "tf32": {2: "tf32"},
    "f8f6f4": _FLOAT8,
    "i8": {0: "u8", 1: "s8"},
    "mxf8f6f4": _FLOAT8,
    "mxf4": {1: "e2m1"},
    "mxf4nvf4": {1: "e2m1"},
}
_RESULTS: dict[str, dict[int, str]] = {
    "f16": {0: "f16", 1: "f32"},
    "tf32": {1: "f32"},
    "f8f6f4": {0: "f16", 1: "f32"},
    "i8": {2: "s32"},
}
K_OF_KIND = {"f16": 16, "tf32": 8, "f8f6f4": 32, "i8": 32, "mxf8f6f4": 32, "mxf4": 64, "mxf4nvf4": 64}
SCALED_KINDS = ("mxf8f6f4", "mxf4", "mxf4nvf4")
KINDS = tuple(K_OF_KIND)


@dataclass(frozen=True)
class Instruction:
    """A decoded and validated instruction descriptor together with the qualifiers that it depends on.

    m, n, k: shape; a_type, b_type, d_type: PTX names; scale_type: "ue8m0" or "ue4m3" ("" without block scaling);
    scales: scale factors
    along K of one instruction; a_scale_id, b_scale_id: which bytes of a tensor-memory word hold them.
    """

    kind: str
    group: int
    ws: bool
    m: int
    n: int
    k: int
    a_type: str
    b_type: str
    d_type: str
    negate_a: bool
    negate_b: bool
    transpose_a: bool
    transpose_b: bool
    saturate: bool = False
    scale_type: str = ""
    scales: int = 0
    a_scale_id: int = 0
    b_scale_id: int = 0

    @property
    def padded(self) -> bool:
        """Whether sub-byte elements come 16 to a padded 16-byte chunk (the f8f6f4 kinds)."""
        return self.kind in ("f8f6f4", "mxf8f6f4")

    def __str__(self) -> str:
        scale = f" x {self.scale_type}/{self.k // self.scales}" if self.scales else ""
        return f"kind::{self.kind} m{self.m}n{self.n}k{self.k} {self.d_type} = {self.a_type} * {self.b_type}{scale}"


def scales_of(kind: str, vector: str) -> int:
    """Scale factors along K for a ``.scale_vectorsize`` qualifier ("" where PTX has a default); PTX ISA tables 56
    and 57."""
    allowed: dict[str, dict[str, int]] = {
        "mxf8f6f4": {"": 1, "scale_vec::1X": 1, "block32": 1},
        "mxf4": {"": 2, "scale_vec::2X": 2, "block32": 2},
        "mxf4nvf4": {"scale_vec::2X": 2, "block32": 2, "scale_vec::4X": 4, "block16": 4},
    }
    if vector not in allowed[kind]:
        names = ", ".join("." + v for v in allowed[kind] if v)
        raise UnitError(f"tcgen05.mma.kind::{kind} with scale vector size .{vector or '(none)'}", f"use one of {names}")
    return allowed[kind][vector]


def _check_shape(kind: str, group: int, ws: bool, m: int, n: int, what: str) -> None:
    """Table 39."""
    if ws:
        if kind in SCALED_KINDS or group == 2:
            raise UnitError(
                f"{what}: .ws with kind::{kind}, cta_group::{group}", ".ws exists for f16, tf32, f8f6f4, i8 and one CTA"
            )
        if m not in (32, 64, 128) or n not in (64, 128, 256):
            raise UnitError(f"{what}: M = {m}, N = {n} with .ws", "M is 32, 64 or 128 and N is 64, 128 or 256")
        return
    rows = (128, 256) if group == 2 else ((128,) if kind in SCALED_KINDS else (64, 128))
    if m not in rows:
        raise UnitError(
            f"{what}: M = {m} with cta_group::{group}",
            f"M is {' or '.join(map(str, rows))} for kind::{kind} (table 39)",
        )
    step = 16 * group if kind == "i8" else 8 * group
    fits = n % step == 0 and step <= n <= 256
    if kind == "i8" and group == 1:
        fits = n in (8, 24) or (n % 16 == 0 and 16 <= n <= 256)
    if not fits:
        raise UnitError(
            f"{what}: N = {n} with cta_group::{group}",
            f"N is a multiple of {step} from {step} to 256 for kind::{kind} (table 39)",
        )


@lru_cache(maxsize=1024)
def parse_instruction(idesc: int, kind: str, group: int, ws: bool = False, vector: str = "") -> Instruction:
    """Decode and validate a 32-bit instruction descriptor.

    kind: without "kind::"; group: 1 or 2; vector: the ``.scale_vectorsize`` qualifier without its dot, or "".
    `UnitError` names the field.
    """
    if kind not in KINDS:
        raise UnitError(f"tcgen05.mma.kind::{kind}", f"kinds are {', '.join(KINDS)}")
    what = f"instruction descriptor {idesc:#010x} of tcgen05.mma.kind::{kind}"
    scaled = kind in SCALED_KINDS
    if (idesc >> 2) & 1:
        raise UnitError(f"{what}: sparsity bit set", "sparse MMA is not implemented; clear bit 2")
    n = ((idesc >> 17) & 0x3F) << 3
    a_code, b_code = (idesc >> 7) & 7, (idesc >> 10) & (3 if kind in ("mxf4", "mxf4nvf4") else 7)
    names = _ELEMENTS[kind]
    for matrix, code in (("A", a_code), ("B", b_code)):
        if code not in names:
            legal = ", ".join(f"{c} ({name})" for c, name in names.items())
            raise UnitError(f"{what}: type of {matrix} is {code}", f"values are {legal}")
    negate_a, negate_b = bool((idesc >> 13) & 1), bool((idesc >> 14) & 1)
    transpose_a, transpose_b = bool((idesc >> 15) & 1), bool((idesc >> 16) & 1)
    if kind == "i8" and (negate_a or negate_b):
        raise UnitError(f"{what}: negation of integer operands", "clear bits 13 and 14 (table 51)")
    if kind in ("mxf4", "mxf4nvf4") and (transpose_a or transpose_b):
        raise UnitError(f"{what}: transposed 4-bit operands", "clear bits 15 and 16 (table 51)")
    saturate, scale_type, scales, a_id, b_id = False, "", 0, 0, 0
    if scaled:
        d_type = "f32"
        m = ((idesc >> 27) & 3) << 7
        reserved = idesc & (0x0700004B | (0x00001000 if kind != "mxf8f6f4" else 0))
        scales = scales_of(kind, vector)
        scale_type = "ue8m0" if (idesc >> 23) & 1 else "ue4m3"
        b_id, a_id = (idesc >> 4) & 3, (idesc >> 29) & 3
        if idesc >> 31:
            if kind == "mxf8f6f4":
                reserved |= 1 << 31
            else:
                raise UnitError(f"{what}: K = 96 (bit 31)", "K = 96 exists on sm_103a only; clear bit 31")
        if scale_type == "ue4m3" and (kind != "mxf4nvf4" or scales != 4):
            raise UnitError(
                f"{what}: UE4M3 scales with {scales} scale factors",
                "UE4M3 (bit 23 = 0) needs kind::mxf4nvf4 with .block16 (table 57); else set bit 23 for UE8M0",
            )
        ids = {1: (0, 1, 2, 3), 2: (0, 2), 4: (0,)}[scales]
        for matrix, value in (("A", a_id), ("B", b_id)):
            if value not in ids:
                raise UnitError(
                    f"{what}: scale factor id of {matrix} is {value}",
                    f"with {scales} scale factors along K it is one of {ids}",
                )
    else:
        if vector:
            raise UnitError(
                f"tcgen05.mma.kind::{kind} with .{vector}", "only the block-scaled kinds take a scale vector size"
            )
        results = _RESULTS[kind]
        code = (idesc >> 4) & 3
        if code not in results:
            legal = ", ".join(f"{c} ({name})" for c, name in results.items())
            raise UnitError(f"{what}: type of D is {code}", f"values are {legal}")
        d_type = results[code]
        m = ((idesc >> 24) & 0x1F) << 4
        reserved = idesc & 0x20800040
        saturate = bool((idesc >> 3) & 1)
        if saturate and kind != "i8":
            raise UnitError(f"{what}: saturation bit set", "bit 3 is for kind::i8 only")
        if (idesc >> 30) and not ws:
            raise UnitError(f"{what}: maximum shift {idesc >> 30}", "bits 30-31 are for .ws only")
        if idesc & 3:
            reserved |= idesc & 3
        if d_type == "f16" and kind == "f16" and (a_code or b_code):
            raise UnitError(
                f"{what}: f16 accumulators with bf16 operands", "use f16 operands or f32 accumulators (table 39)"
            )
    if reserved:
        raise UnitError(f"{what}: reserved bits {reserved:#x} set", "they must be zero (tables 42 to 44)")
    _check_shape(kind, group, ws, m, n, what)
    a_type, b_type = names[a_code], names[b_code]
    if kind == "f16" and a_type != b_type:
        raise UnitError(f"{what}: A is {a_type} and B is {b_type}", "kind::f16 multiplies f16 by f16 or bf16 by bf16")
    if transpose_b and kind in ("f8f6f4", "mxf8f6f4", "i8") and (n % (16 * group)):
        raise UnitError(
            f"{what}: transposed 8-bit B with N = {n}", f"N must be a multiple of {16 * group} then (table 52)"
        )
    return Instruction(
        kind, group, ws, m, n, K_OF_KIND[kind], a_type, b_type, d_type, negate_a, negate_b, transpose_a, transpose_b,
        saturate, scale_type, scales, a_id, b_id,
    )  # fmt: skip

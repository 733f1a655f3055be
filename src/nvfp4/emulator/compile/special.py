"""Special registers (PTX ISA 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime.layout import WARP
from .emitter import CodegenError, vec

if TYPE_CHECKING:
    from .emitter import Emitter

__all__ = ["special_register"]

_CTA = {
    "%ctaid.x": "x",
    "%ctaid.y": "y",
    "%ctaid.z": "z",
    "%clusterid.x": "cluster_x",
    "%clusterid.y": "cluster_y",
    "%clusterid.z": "cluster_z",
    "%cluster_ctaid.x": "in_x",
    "%cluster_ctaid.y": "in_y",
    "%cluster_ctaid.z": "in_z",
    "%cluster_ctarank": "rank",
    "%cluster_nctarank": "cluster_size",
}
_CONTEXT = {
    "%ntid.x": "ntid_x",
    "%ntid.y": "ntid_y",
    "%ntid.z": "ntid_z",
    "%nctaid.x": "nctaid_x",
    "%nctaid.y": "nctaid_y",
    "%nctaid.z": "nctaid_z",
    "%nclusterid.x": "ncluster_x",
    "%nclusterid.y": "ncluster_y",
    "%nclusterid.z": "ncluster_z",
    "%cluster_nctaid.x": "ncta_x",
    "%cluster_nctaid.y": "ncta_y",
    "%cluster_nctaid.z": "ncta_z",
    "%nwarpid": "warp_count",
    "%nsmid": "sm_count",
    "%dynamic_smem_size": "dynamic_smem",
    "%total_smem_size": "total_smem",
    "%aggr_smem_size": "total_smem",
    "%is_explicit_cluster": "explicit_cluster",
}


def special_register(e: Emitter, name: str, bits: int) -> str:
    """The value of a special register in every lane, ``bits`` wide."""
    if name.startswith("%tid."):
        field = WARP.fields["tid_" + name[-1]] if name[-1] != "w" else None
        if field is None:
            return e.splat(0, bits)
        value = e.cached(name, lambda: e.op(f"load {vec(32)}, ptr {e.field_pointer('%w', field.offset)}, align 4"))
        return e.resize(value, 32, bits, False)
    if name.endswith(".w"):
        return e.splat(0, bits)
    if name in _CTA:
        field_name = _CTA[name]
        return e.resize(e.cached(name, lambda: e.broadcast(e.cta_field(field_name), 32)), 32, bits, False)
    if name in _CONTEXT:
        other = _CONTEXT[name]
        wide = e.cached(name, lambda: e.broadcast(e.context_field(other), 32))
        if bits == 1:
            return e.op(f"icmp ne {vec(32)} {wide}, zeroinitializer")
        return e.resize(wide, 32, bits, False)
    lanes = range(32)
    constants = {
        "%laneid": lambda l: l,
        "%lanemask_eq": lambda l: 1 << l,
        "%lanemask_le": lambda l: (2 << l) - 1,
        "%lanemask_lt": lambda l: (1 << l) - 1,
        "%lanemask_ge": lambda l: 0xFFFFFFFF & ~((1 << l) - 1),
        "%lanemask_gt": lambda l: 0xFFFFFFFF & ~((2 << l) - 1),
    }
    if name in constants:
        return "<" + ", ".join(f"i{bits} {constants[name](l)}" for l in lanes) + ">"
    if name == "%warpid":
        return e.resize(e.broadcast(e.warp_field("id"), 32), 32, bits, False)
    if name == "%smid":
        number = e.cta_field("number")
        count = e.context_field("sm_count")
        return e.resize(e.broadcast(e.op(f"urem i32 {number}, {count}"), 32), 32, bits, False)
    if name in ("%gridid", "%current_graph_exec") or name.startswith(("%pm", "%envreg", "%reserved")):
        return e.splat(0, bits)
    if name in ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo", "%clock_hi", "%globaltimer_hi"):
        # Time is the count of executed instructions, and passes with every look.
        value = e.op("call i64 @tick(ptr %ctx)")
        if name.endswith("hi"):
            value = e.op(f"lshr i64 {value}, 32")
        return e.resize(e.broadcast(value, 64), 64, bits, False)
    raise CodegenError(f"special register {name} is not supported")

"""Loads, stores, atomics, cp.async (PTX ISA 9.7.9.8 to 9.7.9.25, 9.7.13.13)."""

from __future__ import annotations

from ..ptx.ast import Bracket, Instruction, Operand, Reg, Sym, Vec, type_bits
from ..runtime.layout import NONE, Atom, Space
from .emitter import SCRATCH_ADDRESS, SCRATCH_OUT, SCRATCH_VALUES, Emitter, Unsupported, vec

__all__ = ["HANDLERS"]

_SPACES = {
    "global": Space.GLOBAL,
    "shared": Space.SHARED,
    "shared::cta": Space.SHARED,
    "shared::cluster": Space.SHARED_CLUSTER,
    "local": Space.LOCAL,
    "const": Space.CONST,
    "param": Space.CONST,
    "param::entry": Space.CONST,
    "param::func": Space.LOCAL,
}
_ATOM_KIND = {"u": 0, "b": 0, "s": 1, "f": 2}


def space_of(i: Instruction) -> Space:
    """The state space an opcode names."""
    for part in i.parts[1:]:
        if part in _SPACES:
            return _SPACES[part]
    return Space.GENERIC


def _type(i: Instruction) -> tuple[str, int]:
    """(type, vector length): ``ld.global.v2.u64`` and the odd order ``ld.global.u64.v2`` are both seen in practice."""
    count, kind = 1, ""
    for part in i.parts[1:]:
        if part in ("v2", "v4", "v8"):
            count = int(part[1:])
        elif part[0] in "bsuf" and part[1:].isdigit():
            kind = part
    return kind, count


def _target(e: Emitter, i: Instruction, operand: Operand) -> tuple[str, Space]:
    space = space_of(i)
    named = isinstance(operand, Bracket) and isinstance(operand.base, Sym) and (i.has("param") or i.has("param::func"))
    if named and e.space_of(operand.base.name) == "local":  # type: ignore[union-attr]
        space = Space.LOCAL
    return e.address(operand), space


def _load(e: Emitter, i: Instruction) -> None:
    kind, count = _type(i)
    bits = type_bits(kind)
    targets = i.operands[0].items if isinstance(i.operands[0], Vec) else (i.operands[0],)
    source = i.operands[1]
    if (
        i.parts[1].startswith("param")
        and isinstance(source, Bracket)
        and isinstance(source.base, Sym)
        and e.space_of(source.base.name) == "param"
    ):
        _load_parameter(e, source, targets, bits, kind[0] == "s")
        return
    address, space = _target(e, i, source)
    where = e.store_scratch(SCRATCH_ADDRESS, address, 64)
    out = e.scratch(SCRATCH_OUT)
    active = e.active()
    e.do(
        f"call void @load(ptr %ctx, ptr %w, i32 {active}, i32 {e.number}, i32 {bits // 8}, i32 "
        f"{count}, i32 {int(space)}, "
        f"ptr {where}, ptr {out})"
    )
    if i.has("acquire") or i.has("volatile") or i.has("relaxed"):
        e.do(f"call void @sync_lanes(ptr %ctx, ptr %w, i32 {active}, ptr {where}, i32 1, i32 0, i32 0)")
    for k, target in enumerate(targets):
        value = e.load_scratch(SCRATCH_OUT + k * 32 * (bits // 8), bits)
        e.write(target, value, bits, kind[0] == "s")


def _load_parameter(e: Emitter, source: Bracket, targets: tuple[Operand, ...], bits: int, signed: bool) -> None:
    """Kernel parameters are the same in all lanes: one scalar load, known to be in bounds at compile time."""
    assert isinstance(source.base, Sym)
    offset, variable = e.layout.params[source.base.name]
    shift = source.base.offset + source.offset
    if shift < 0 or shift + len(targets) * bits // 8 > variable.size:
        e.fail(
            f"reads bytes {shift} to {shift + len(targets) * bits // 8} of parameter {variable.name}, "
            f"which has {variable.size}"
        )
    base = e.context_field("constants")
    pointer = e.cached("P", lambda: e.op(f"inttoptr i64 {base} to ptr"))
    for k, target in enumerate(targets):
        where = e.field_pointer(pointer, offset + shift + k * bits // 8)
        value = e.broadcast(e.op(f"load i{bits}, ptr {where}, align 1"), bits)
        e.write(target, value, bits, signed)


def _store(e: Emitter, i: Instruction) -> None:
    if i.has("async") or i.has("bulk"):
        raise Unsupported
    kind, count = _type(i)
    bits = type_bits(kind)
    address, space = _target(e, i, i.operands[0])
    values = i.operands[1].items if isinstance(i.operands[1], Vec) else (i.operands[1],)
    where = e.store_scratch(SCRATCH_ADDRESS, address, 64)
    for k, value in enumerate(values):
        e.store_scratch(
            SCRATCH_VALUES + k * 32 * (bits // 8), e.read(value, bits, "f" if kind[0] == "f" else "u"), bits
        )
    active = e.active()
    strong = 256 if i.has("release") or i.has("relaxed") or i.has("volatile") else 0
    if strong:
        ordered = int(i.has("release"))
        e.do(f"call void @sync_lanes(ptr %ctx, ptr %w, i32 {active}, ptr {where}, i32 0, i32 1, i32 {ordered})")
    e.do(
        f"call void @store(ptr %ctx, ptr %w, i32 {active}, i32 {e.number}, i32 {bits // 8}, i32 "
        f"{count}, i32 {int(space) | strong}, "
        f"ptr {where}, ptr {e.scratch(SCRATCH_VALUES)})"
    )


def _atomic(e: Emitter, i: Instruction) -> None:
    if i.has("async"):
        raise Unsupported
    kind, count = _type(i)
    name = next((p for p in i.parts[1:] if p in ("f16x2", "bf16x2", "f16", "bf16")), None)
    if name is not None:
        kind = name
    op_name = next(p for p in i.parts[1:] if p.upper() in Atom.__members__)
    op = Atom[op_name.upper()]
    bits = type_bits(kind)
    if bits == 128:
        raise Unsupported
    code = {"f16": 3, "bf16": 4, "f16x2": 5, "bf16x2": 6}.get(kind, _ATOM_KIND[kind[0]])
    is_red = i.base == "red"
    operands = list(i.operands) if is_red else list(i.operands[1:])
    address, space = _target(e, i, operands[0])
    ordered = int(i.has("acq_rel") or i.has("release"))
    packed = int(op) | code << 8 | (bits // 8) << 12 | int(space) << 20 | ordered << 24
    values = operands[1].items if isinstance(operands[1], Vec) else (operands[1],)
    targets: tuple[Operand | None, ...] = (None,) * len(values)
    if not is_red:
        targets = i.operands[0].items if isinstance(i.operands[0], Vec) else (i.operands[0],)
    del count
    active = e.active()
    for k, value in enumerate(values):
        at = e.op(f"add {vec(64)} {address}, {e.splat(k * bits // 8, 64)}") if k else address
        where = e.store_scratch(SCRATCH_ADDRESS, at, 64)
        e.store_scratch(
            SCRATCH_VALUES, e.resize(e.read(value, bits, "f" if kind[0] == "f" else "u"), bits, 64, False), 64
        )
        if len(operands) > 2:
            e.store_scratch(SCRATCH_VALUES + 256, e.resize(e.read(operands[2], bits), bits, 64, False), 64)
        e.do(
            f"call void @atomic(ptr %ctx, ptr %w, i32 {active}, i32 {e.number}, i32 {packed}, ptr {where}, "
            f"ptr {e.scratch(SCRATCH_VALUES)}, ptr {e.scratch(SCRATCH_OUT)})"
        )
        target = targets[k]
        if target is not None:
            e.write(target, e.resize(e.load_scratch(SCRATCH_OUT, 64), 64, bits, False), bits, kind[0] == "s")


def _cp_async(e: Emitter, i: Instruction) -> None:
    parts = i.parts
    if parts[:3] == ("cp", "async", "commit_group"):
        e.do("call void @cp_async_commit(ptr %ctx, ptr %w)")
        return
    if parts[:3] in (("cp", "async", "wait_group"), ("cp", "async", "wait_all")):
        pending: str | int = NONE
        if parts[2] == "wait_group":
            pending = int(getattr(i.operands[0], "value", 0))
        e.do(f"call void @cp_async_wait(ptr %ctx, ptr %w, i32 {pending})")
        return
    if parts[2] == "mbarrier":
        where = e.store_scratch(SCRATCH_ADDRESS, e.address(i.operands[0]), 64)
        space = Space.SHARED if space_of(i) != Space.GENERIC else Space.SHARED_CLUSTER
        e.do(
            f"call void @cp_async_arrive(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, i32 "
            f"{int(i.has('noinc'))}, "
            f"i32 {int(space)}, ptr {where})"
        )
        return
    # cp.async.{ca,cg}.shared.global [dst], [src], cp-size{, src-size | ignore-src}{, cache-policy}
    size = int(getattr(i.operands[2], "value", 0))
    if size not in (4, 8, 16):
        e.fail(f"cp.async copies 4, 8 or 16 bytes, not {size}")
    dst = e.store_scratch(SCRATCH_ADDRESS, e.address(i.operands[0]), 64)
    src = e.store_scratch(SCRATCH_VALUES, e.address(i.operands[1]), 64)
    count = e.splat(size, 64)
    extra = i.operands[3:]
    if i.has("L2::cache_hint"):
        extra = extra[:-1]
    if extra:
        operand = extra[0]
        if isinstance(operand, Reg) and e.bits_of(operand.name) == 1:
            count = e.op(f"select <32 x i1> {e.read(operand, 1)}, {vec(64)} zeroinitializer, {vec(64)} {count}")
        else:
            count = e.read(operand, 64)
            if isinstance(operand, Reg):
                count = e.resize(e.read(operand, 32), 32, 64, False)
    sizes = e.store_scratch(SCRATCH_OUT, count, 64)
    e.do(
        f"call void @cp_async(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, i32 {size}, i32 0, "
        f"ptr {dst}, ptr {src}, ptr {sizes})"
    )


HANDLERS = {"ld": _load, "ldu": _load, "st": _store, "atom": _atomic, "red": _atomic, "cp": _cp_async}

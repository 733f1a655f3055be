"""Warp-wide operations, fences, barriers and mbarriers (PTX ISA 9.7.9.6, 9.7.13)."""

from __future__ import annotations

from ..ptx.ast import Bracket, Imm, Instruction, Operand, Pair, Sink, type_bits
from ..runtime.layout import Space
from .access import space_of
from .emitter import SCRATCH_ADDRESS, SCRATCH_OUT, SCRATCH_VALUES, Emitter, Unsupported, vec

__all__ = ["HANDLERS", "SYNC_HANDLERS"]


def _scalar(e: Emitter, operand: Operand) -> str:
    """A value that must be the same in all lanes, taken from the first active lane."""
    if isinstance(operand, Imm):
        return str(int(operand.value) & 0xFFFFFFFF)
    value = e.read(operand, 32)
    e.declare("declare i32 @llvm.cttz.i32(i32, i1)")
    lane = e.op(f"call i32 @llvm.cttz.i32(i32 {e.active()}, i1 false)")
    lane = e.op(f"and i32 {lane}, 31")
    return e.op(f"extractelement {vec(32)} {value}, i32 {lane}")


def _converge(e: Emitter, members: str) -> None:
    """Wait for the member lanes: return S_PARK while some of them are elsewhere (nothing has happened in this block
    yet). Once a block has gathered the whole warp, there is nobody left to wait for."""
    from ..runtime.layout import WARP

    whole = members in ("-1", "4294967295")
    if whole and e.gathered:
        return
    e.gathered = e.gathered or whole

    alive = e.op(f"load i32, ptr {e.field_pointer('%w', WARP.fields['alive'].offset)}")
    wanted = e.op(f"and i32 {members}, {alive}")
    missing = e.op(f"and i32 {wanted}, {e.op(f'xor i32 {e.mask_name}, -1')}")
    test = e.op(f"icmp ne i32 {missing}, 0")
    e.counter += 1
    yes, no = f"park{e.counter}", f"go{e.counter}"
    e.do(f"br i1 {test}, label %{yes}, label %{no}")
    e.lines.append(f"{yes}:")
    result = e.op(f"call i32 @park(ptr %ctx, ptr %w, i32 {e.number}, i32 {wanted})")
    e.do(f"ret i32 {result}")
    e.lines.append(f"{no}:")


def _members(e: Emitter, operand: Operand) -> str:
    members = _scalar(e, operand)
    if e.guard is None:
        _converge(e, members)
    return members


def _shfl(e: Emitter, i: Instruction) -> None:
    target = i.operands[0]
    mode = {"up": 0, "down": 1, "bfly": 2, "idx": 3}[i.parts[2] if i.parts[1] == "sync" else i.parts[1]]
    if i.parts[1] == "sync":
        _members(e, i.operands[4])
    a = e.store_scratch(SCRATCH_VALUES, e.read(i.operands[1], 32), 32)
    b = e.store_scratch(SCRATCH_VALUES + 256, e.read(i.operands[2], 32), 32)
    c = e.store_scratch(SCRATCH_VALUES + 512, e.read(i.operands[3], 32), 32)
    out = e.scratch(SCRATCH_OUT)
    valid = e.op(f"call i32 @shuffle(i32 {mode}, ptr {a}, ptr {b}, ptr {c}, ptr {out})")
    value = e.load_scratch(SCRATCH_OUT, 32)
    if e.written:
        # The lanes that hold something move with the values.
        lanes = e.op(f"bitcast i32 {e.written} to <32 x i1>")
        a = e.store_scratch(SCRATCH_VALUES, e.op(f"sext <32 x i1> {lanes} to {vec(32)}"), 32)
        e.do(f"call i32 @shuffle(i32 {mode}, ptr {a}, ptr {b}, ptr {c}, ptr {out})")
        moved = e.op(f"icmp ne {vec(32)} {e.load_scratch(SCRATCH_OUT, 32)}, zeroinitializer")
        e.written = e.op(f"bitcast <32 x i1> {moved} to i32")
    if isinstance(target, Pair):
        e.write(target.second, e.op(f"bitcast i32 {valid} to <32 x i1>"), 1)
        target = target.first
    e.write(target, value, 32)


def _vote(e: Emitter, i: Instruction) -> None:
    mode = i.parts[2]
    members = _members(e, i.operands[2])
    p = e.op(f"bitcast <32 x i1> {e.read(i.operands[1], 1)} to i32")
    voters = e.op(f"and i32 {members}, {e.active()}")
    p = e.op(f"and i32 {p}, {voters}")
    if mode == "ballot":
        e.write(i.operands[0], e.broadcast(p, 32), 32)
        return
    if mode == "any":
        test = e.op(f"icmp ne i32 {p}, 0")
    elif mode == "all":
        test = e.op(f"icmp eq i32 {p}, {voters}")
    else:
        none = e.op(f"icmp eq i32 {p}, 0")
        test = e.op(f"or i1 {none}, {e.op(f'icmp eq i32 {p}, {voters}')}")
    e.write(i.operands[0], e.broadcast(test, 1), 1)


def _match(e: Emitter, i: Instruction) -> None:
    bits = type_bits(i.parts[-1])
    members = _members(e, i.operands[2])
    a = e.store_scratch(SCRATCH_VALUES, e.resize(e.read(i.operands[1], bits), bits, 64, False), 64)
    voters = e.op(f"and i32 {members}, {e.active()}")
    everyone = int(i.parts[1] == "all")
    same = e.op(f"call i32 @match(i32 {voters}, ptr {a}, i32 {everyone}, ptr {e.scratch(SCRATCH_OUT)})")
    target = i.operands[0]
    if isinstance(target, Pair):
        e.write(target.second, e.broadcast(e.op(f"icmp ne i32 {same}, 0"), 1), 1)
        target = target.first
    e.write(target, e.load_scratch(SCRATCH_OUT, 32), 32)


def _redux(e: Emitter, i: Instruction) -> None:
    name = next(p for p in i.parts[2:] if p in ("add", "min", "max", "and", "or", "xor"))
    kind = i.parts[-1]
    code = {"add": 0, "min": 1, "max": 2, "and": 5, "or": 6, "xor": 7}[name]
    members = _members(e, i.operands[2])
    voters = e.op(f"and i32 {members}, {e.active()}")
    value = e.read(i.operands[1], 32, "f" if kind[0] == "f" else "u")
    if kind == "f32" and i.has("abs"):
        value = e.op(f"and {vec(32)} {value}, {e.splat(0x7FFFFFFF, 32)}")
    a = e.store_scratch(SCRATCH_VALUES, value, 32)
    letter = {"u": 0, "b": 0, "s": 1, "f": 2}[kind[0]]
    result = e.op(f"call i32 @reduce(i32 {voters}, ptr {a}, i32 {code}, i32 {letter}, i32 {int(i.has('NaN'))})")
    e.write(i.operands[0], e.broadcast(result, 32), 32)


def _elect(e: Emitter, i: Instruction) -> None:
    members = _members(e, i.operands[1])
    voters = e.op(f"and i32 {members}, {e.active()}")
    e.declare("declare i32 @llvm.cttz.i32(i32, i1)")
    lane = e.op(f"call i32 @llvm.cttz.i32(i32 {voters}, i1 false)")
    lane = e.op(f"and i32 {lane}, 31")
    bit = e.op(f"shl i32 1, {lane}")
    target = i.operands[0]
    if isinstance(target, Pair):
        e.write(target.second, e.op(f"bitcast i32 {bit} to <32 x i1>"), 1)
        target = target.first
    if not isinstance(target, Sink):
        e.write(target, e.broadcast(lane, 32), 32)


def _activemask(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.broadcast(e.active(), 32), 32)


def _fence(e: Emitter, i: Instruction) -> None:
    if i.has("proxy"):
        kind, *space = i.parts[i.parts.index("proxy") + 1 :]
        if kind.startswith("async"):
            if "global" not in space:
                e.do("call void @fence_proxy_async(ptr %ctx, ptr %w)")
            if not space or "global" in space:
                e.do("call void @fence_proxy_async_global(ptr %ctx, ptr %w)")
        return
    e.do("call void @fence_memory(ptr %ctx, ptr %w)")


def _fence_proxy(e: Emitter, i: Instruction) -> None:
    _fence(e, i)


def _trap(e: Emitter, i: Instruction) -> None:
    e.do(f"call void @trap(ptr %ctx, ptr %w, i32 {e.number}, i32 {e.active()})")


# -- mbarrier --------------------------------------------------------------------------------------------------------


def _mbarrier_space(i: Instruction) -> Space:
    space = space_of(i)
    return Space.SHARED_CLUSTER if space == Space.GENERIC else space


def _mbarrier(e: Emitter, i: Instruction) -> None:
    action = i.parts[1]
    if action == "pending_count":
        state = e.read(i.operands[1], 64)
        e.write(i.operands[0], e.resize(e.op(f"lshr {vec(64)} {state}, {e.splat(32, 64)}"), 64, 32, False), 32)
        return
    if action == "init":
        where = e.store_scratch(SCRATCH_ADDRESS, e.address(i.operands[0]), 64)
        count = e.store_scratch(SCRATCH_VALUES, e.read(i.operands[1], 64), 64)
        e.do(f"call void @mbarrier_init(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, ptr {where}, ptr {count})")
        return
    if action == "inval":
        where = e.store_scratch(SCRATCH_ADDRESS, e.address(i.operands[0]), 64)
        e.do(f"call void @mbarrier_inval(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, ptr {where})")
        return
    operands = list(i.operands)
    target: Operand | None = None
    if not isinstance(operands[0], Bracket):
        target = operands.pop(0)
    where = e.store_scratch(SCRATCH_ADDRESS, e.address(operands[0]), 64)
    packed = int(_mbarrier_space(i)) << 8
    count = e.splat(1, 64)
    bytes_ = "zeroinitializer"
    if action in ("arrive", "arrive_drop"):
        packed |= 1 | (8 if action == "arrive_drop" else 0) | (0 if i.has("relaxed") else 16)
        if i.has("expect_tx"):
            packed |= 2
            bytes_ = _wide(e, operands[1])
        elif len(operands) > 1:
            count = _wide(e, operands[1])
    elif action == "expect_tx":
        packed |= 2
        bytes_ = _wide(e, operands[1])
    elif action == "complete_tx":
        packed |= 4
        bytes_ = _wide(e, operands[1])
    else:
        raise Unsupported
    e.store_scratch(SCRATCH_VALUES, count, 64)
    e.store_scratch(SCRATCH_VALUES + 256, bytes_, 64)
    e.do(
        f"call void @mbarrier_arrive(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, i32 {packed}, ptr {where}, "
        f"ptr {e.scratch(SCRATCH_VALUES)}, ptr {e.scratch(SCRATCH_OUT)})"
    )
    if target is not None and not isinstance(target, Sink):
        e.write(target, e.load_scratch(SCRATCH_OUT, 64), 64)


def _wide(e: Emitter, operand: Operand) -> str:
    return e.resize(e.read(operand, 32), 32, 64, False)


def _mbarrier_wait(e: Emitter, i: Instruction) -> str:
    """test_wait and try_wait; returns the status (0 or S_RETRY)."""
    target, address = i.operands[0], i.operands[1]
    packed = int(_mbarrier_space(i)) << 8 | (2 if i.parts[1] == "try_wait" else 0) | (0 if i.has("relaxed") else 4)
    where = e.store_scratch(SCRATCH_ADDRESS, e.address(address), 64)
    if i.has("parity"):
        packed |= 1
        value = _wide(e, i.operands[2])
    else:
        value = e.read(i.operands[2], 64)
    e.store_scratch(SCRATCH_VALUES, value, 64)
    out = e.scratch(SCRATCH_OUT)
    status = e.op(
        f"call i32 @mbarrier_wait(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, i32 {packed}, ptr {where}, "
        f"ptr {e.scratch(SCRATCH_VALUES)}, ptr {out})"
    )
    ready = e.op(f"load i32, ptr {out}")
    e.write(target, e.op(f"bitcast i32 {ready} to <32 x i1>"), 1)
    return status


# -- barriers --------------------------------------------------------------------------------------------------------


def _barrier(e: Emitter, i: Instruction) -> str:
    p = i.parts
    if p[1] == "warp":
        members = _scalar(e, i.operands[0])
        _converge(e, members)
        e.do("call void @warp_synced(ptr %ctx, ptr %w)")
        return "0"
    if p[0] == "barrier" and p[1] == "cluster":
        # barrier.cluster without .aligned may be executed lane by lane.
        aligned = int(i.has("aligned"))
        if p[2] == "arrive":
            release = int(not i.has("relaxed"))
            return e.op(
                f"call i32 @cluster_arrive(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, i32 "
                f"{aligned}, i32 {release})"
            )
        return e.op(f"call i32 @cluster_wait(ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}, i32 {aligned})")
    aligned = int(p[0] == "bar" or i.has("aligned"))
    arguments = f"ptr %ctx, ptr %w, i32 {e.active()}, i32 {e.number}"
    if "red" in p:
        operands = i.operands[1:]
        number, threads = _scalar(e, operands[0]), _scalar(e, operands[1]) if len(operands) > 2 else "0"
        predicate = e.op(f"bitcast <32 x i1> {e.read(operands[-1], 1)} to i32")
        status = e.op(
            f"call i32 @barrier_reduce({arguments}, i32 {number}, i32 {threads}, i32 {aligned}, i32 {predicate})"
        )
        what = 0 if "and" in p else (1 if "or" in p else 2)
        result = e.op(f"call i32 @barrier_result(ptr %ctx, ptr %w, i32 {number}, i32 {what})")
        if what == 2:
            e.write(i.operands[0], e.broadcast(result, 32), 32)
        else:
            e.write(i.operands[0], e.broadcast(e.op(f"icmp ne i32 {result}, 0"), 1), 1)
        return status
    number = _scalar(e, i.operands[0])
    threads = _scalar(e, i.operands[1]) if len(i.operands) > 1 else "0"
    name = "barrier_arrive_only" if "arrive" in p else "barrier_sync"
    return e.op(f"call i32 @{name}({arguments}, i32 {number}, i32 {threads}, i32 {aligned})")


HANDLERS = {
    "shfl": _shfl,
    "vote": _vote,
    "match": _match,
    "redux": _redux,
    "elect": _elect,
    "activemask": _activemask,
    "fence": _fence,
    "membar": _fence,
    "trap": _trap,
    "brkpt": _trap,
    "mbarrier": _mbarrier,
}
SYNC_HANDLERS = {"mbarrier": _mbarrier_wait, "bar": _barrier, "barrier": _barrier}

"""Emission of one function of LLVM IR over warps: values are vectors of 32 lanes, registers live in the warp's register
file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NoReturn

from ..ptx.ast import Bracket, Imm, Instruction, Negated, Operand, Reg, Sink, Sym, Variable, type_bits
from ..runtime.layout import CONTEXT, CTA, LOCAL_BASE, SHARED_BASE, WARP
from .effects import passes_on, reads_writes
from .flow import Block, Flow, assign

__all__ = ["CodegenError", "Emitter", "KernelLayout", "Unsupported", "float_bits", "vec"]

# Where the arguments of native helpers lie in the warp's scratch memory.
SCRATCH_ADDRESS, SCRATCH_VALUES, SCRATCH_OUT, SCRATCH_SIZE = 0, 256, 8192, 24576


class Unsupported(Exception):
    """The instruction is not implemented."""


class CodegenError(Exception):
    """An instruction with operands that make no sense; becomes a PtxSyntaxError with its line."""


def vec(bits: int, lanes: int = 32) -> str:
    """LLVM's name of a vector of ``lanes`` integers."""
    return f"<{lanes} x i{bits}>"


def float_bits(value: float, bits: int) -> int:
    """The encoding of ``value`` as binary16, bfloat16 is not handled here, binary32 or binary64."""
    if bits == 64:
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])
    if bits == 32:
        try:
            return int(struct.unpack("<I", struct.pack("<f", value))[0])
        except OverflowError:
            return 0x7F800000 if value > 0 else 0xFF800000
    return int(struct.unpack("<H", struct.pack("<e", value))[0])


@dataclass
class KernelLayout:
    """Where things are: registers in the register file, variables in their spaces."""

    slots: dict[str, int] = field(default_factory=dict)
    init_slots: dict[str, int] = field(default_factory=dict)
    size: int = 0
    shared: dict[str, int] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)
    params: dict[str, tuple[int, Variable]] = field(default_factory=dict)
    globals: dict[str, int] = field(default_factory=dict)
    constants: list[tuple[int, int]] = field(default_factory=list)
    shared_static: int = 0
    local_size: int = 0
    register_names: list[str] = field(default_factory=list)


def register_bits(kind: str) -> int:
    """Storage width of a register: predicates are single bits; 8-bit registers keep 8."""
    return 1 if kind == "pred" else type_bits(kind)


def slot_bytes(bits: int) -> int:
    """Bytes of a register's slot for 32 lanes."""
    return 4 if bits == 1 else bits * 4


class Emitter:
    """Builds the function of one basic block."""

    def __init__(self, flow: Flow, layout: KernelLayout, helpers: dict[str, str], declared: set[str]) -> None:
        self.flow = flow
        self.layout = layout
        self.helpers = helpers
        self.declared = declared
        self.lines: list[str] = []
        self.counter = 0
        self.values: dict[str, str] = {}
        self.dirty: dict[str, None] = {}
        self.inits: dict[str, str] = {}
        self.known: set[str] = set()
        self.cache: dict[str, str] = {}
        self.instruction: Instruction = Instruction("", ("",), (), 0, None)
        self.number = 0
        self.guard: str | None = None
        # Whether the instruction hands unwritten operands on, and the lanes whose operands are written (empty: all).
        self.passing = False
        self.written = ""
        self.mask_name = "%m"
        self.mask_vec: str | None = None
        self.gathered = False

    # -- text ----------------------------------------------------------------------------------------------------

    def op(self, text: str) -> str:
        """Emit an instruction with a result; returns its name."""
        self.counter += 1
        name = f"%t{self.counter}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Emit an instruction without a result."""
        self.lines.append("  " + text)

    def declare(self, text: str) -> None:
        """Declare an LLVM intrinsic or external function once per module."""
        self.declared.add(text)

    def intrinsic(self, name: str, result: str, *arguments: tuple[str, str]) -> str:
        """Call ``llvm.name`` on typed arguments."""
        self.declare(f"declare {result} @{name}({', '.join(t for t, _ in arguments)})")
        return self.op(f"call {result} @{name}({', '.join(f'{t} {v}' for t, v in arguments)})")

    def fail(self, message: str) -> NoReturn:
        """An operand that makes no sense."""
        raise CodegenError(message)

    def helper(self, name: str, result: str, parameters: list[str], build: Callable[[Emitter, list[str]], str]) -> str:
        """An out-of-line function for long sequences, emitted once per module; returns its name."""
        if name not in self.helpers:
            self.helpers[name] = ""
            inner = Emitter(self.flow, self.layout, self.helpers, self.declared)
            inner.counter = 0
            names = [f"%a{i}" for i in range(len(parameters))]
            value = build(inner, names)
            head = ", ".join(f"{t} {n}" for t, n in zip(parameters, names, strict=True))
            body = "\n".join(inner.lines)
            # Required of functions that change the rounding mode.
            strict = " strictfp" if "strictfp" in body else ""
            self.helpers[name] = (
                f"define internal {result} @{name}({head}) noinline nounwind{strict} "
                f"{{\n{body}\n  ret {result} {value}\n}}"
            )
        return name

    def call_helper(
        self, name: str, result: str, arguments: list[tuple[str, str]], build: Callable[[Emitter, list[str]], str]
    ) -> str:
        """Call an out-of-line function, building it on first use."""
        self.helper(name, result, [t for t, _ in arguments], build)
        return self.op(f"call {result} @{name}({', '.join(f'{t} {v}' for t, v in arguments)})")

    # -- masks ---------------------------------------------------------------------------------------------------

    def mask_vector(self) -> str:
        """The active lanes as <32 x i1>."""
        if self.mask_vec is None:
            self.mask_vec = self.op(f"bitcast i32 {self.mask_name} to <32 x i1>")
        return self.mask_vec

    def active(self) -> str:
        """The active lanes of this instruction (guard included) as i32."""
        if self.guard is None:
            return self.mask_name
        bits = self.op(f"bitcast <32 x i1> {self.guard} to i32")
        return self.op(f"and i32 {bits}, {self.mask_name}")

    # -- pointers ------------------------------------------------------------------------------------------------

    def cached(self, key: str, build: Callable[[], str]) -> str:
        """A value computed once per block (only for values that a block cannot change)."""
        if key not in self.cache:
            self.cache[key] = build()
        return self.cache[key]

    def field_pointer(self, base: str, offset: int) -> str:
        """Address arithmetic in bytes."""
        return self.op(f"getelementptr i8, ptr {base}, i64 {offset}")

    def warp_field(self, name: str) -> str:
        """Load a field of the warp, once per block."""
        f = WARP.fields[name]
        return self.cached(
            f"w.{name}", lambda: self.op(f"load {_llvm(f.type)}, ptr {self.field_pointer('%w', f.offset)}")
        )

    def context_field(self, name: str) -> str:
        """Load a field of the launch context, once per block."""
        f = CONTEXT.fields[name]
        return self.cached(
            f"c.{name}", lambda: self.op(f"load {_llvm(f.type)}, ptr {self.field_pointer('%ctx', f.offset)}")
        )

    def cta_field(self, name: str) -> str:
        """Load a field of the CTA, once per block."""
        f = CTA.fields[name]
        cta = self.warp_field("cta")
        return self.cached(
            f"t.{name}", lambda: self.op(f"load {_llvm(f.type)}, ptr {self.field_pointer(cta, f.offset)}")
        )

    def registers(self) -> str:
        """Base of the register file."""
        base = self.warp_field("registers")
        return self.cached("R", lambda: self.op(f"inttoptr i64 {base} to ptr"))

    def scratch(self, offset: int) -> str:
        """A place in the warp's scratch memory."""
        base = self.warp_field("scratch")
        pointer = self.cached("S", lambda: self.op(f"inttoptr i64 {base} to ptr"))
        return self.cached(f"S{offset}", lambda: self.field_pointer(pointer, offset)) if offset else pointer

    # -- registers -----------------------------------------------------------------------------------------------

    def bits_of(self, register: str) -> int:
        """Width of a register."""
        if register == "%cc":
            return 1
        return register_bits(self.flow.registers[register])

    def slot(self, register: str) -> str:
        """Address of a register's slot."""
        offset = self.layout.slots.get(register)
        if offset is None:
            offset = self.layout.size
            size = slot_bytes(self.bits_of(register))
            self.layout.slots[register] = offset
            self.layout.size += -(-size // 64) * 64
        return self.field_pointer(self.registers(), offset)

    def load_slot(self, register: str) -> str:
        """Read a register from the register file."""
        bits = self.bits_of(register)
        if bits == 1:
            packed = self.op(f"load i32, ptr {self.slot(register)}")
            return self.op(f"bitcast i32 {packed} to <32 x i1>")
        return self.op(f"load {vec(bits)}, ptr {self.slot(register)}, align 64")

    def get(self, register: str, checked: bool = True) -> str:
        """The present value of a register."""
        if checked and register not in self.known:
            self.check_init(register)
        if register not in self.values:
            self.values[register] = self.load_slot(register)
        return self.values[register]

    def set(self, register: str, value: str) -> None:
        """Give a register a value in the lanes where the guard holds."""
        if self.guard is not None:
            kind = vec(self.bits_of(register))
            old = self.get(register, checked=False)
            value = self.op(f"select <32 x i1> {self.guard}, {kind} {value}, {kind} {old}")
        self.values[register] = value
        self.dirty[register] = None
        if register in self.layout.init_slots:
            active = self.active()
            self.inits[register] = self.op(f"or i32 {self.init_of(register)}, {active}")

    def init_of(self, register: str) -> str:
        """Lanes in which a doubtful register has been written."""
        if register not in self.inits:
            where = self.field_pointer(self.registers(), self.layout.init_slots[register])
            self.inits[register] = self.op(f"load i32, ptr {where}")
        return self.inits[register]

    def check_init(self, register: str) -> None:
        """Report a read of lanes that nothing has written."""
        if register not in self.layout.init_slots or self.passing:
            return
        missing = self.op(f"xor i32 {self.init_of(register)}, -1")
        missing = self.op(f"and i32 {missing}, {self.active()}")
        test = self.op(f"icmp ne i32 {missing}, 0")
        self.counter += 1
        yes, no = f"u{self.counter}", f"v{self.counter}"
        self.do(f"br i1 {test}, label %{yes}, label %{no}")
        self.lines.append(f"{yes}:")
        index = (
            self.layout.register_names.index(register)
            if register in self.layout.register_names
            else len(self.layout.register_names)
        )
        if index == len(self.layout.register_names):
            self.layout.register_names.append(register)
        self.do(f"call void @uninitialised(ptr %ctx, ptr %w, i32 {self.number}, i32 {missing}, i32 {index})")
        self.do(f"br label %{no}")
        self.lines.append(f"{no}:")

    # -- operands ------------------------------------------------------------------------------------------------

    def splat(self, value: int, bits: int) -> str:
        """A constant in all lanes."""
        if bits == 1:
            return "splat (i1 true)" if value else "zeroinitializer"
        value &= (1 << bits) - 1
        return f"splat (i{bits} {value})" if value else "zeroinitializer"

    def broadcast(self, scalar: str, bits: int) -> str:
        """A scalar in all lanes."""
        one = self.op(f"insertelement {vec(bits)} poison, i{bits} {scalar}, i32 0")
        return self.op(f"shufflevector {vec(bits)} {one}, {vec(bits)} poison, <32 x i32> zeroinitializer")

    def read(self, operand: Operand, bits: int, kind: str = "u") -> str:
        """The value of an operand as a vector of ``bits``-wide integers; ``kind`` is f for a float type."""
        if isinstance(operand, Reg):
            if operand.name.startswith("%") and operand.name not in self.flow.registers and operand.name != "%cc":
                from .special import special_register

                return special_register(self, operand.name, bits)
            return self.resize(self.get(operand.name), self.bits_of(operand.name), bits, kind == "s")
        if isinstance(operand, Imm):
            value = operand.value
            if kind == "f" or (operand.is_float and kind != "i"):
                return self.splat(float_bits(float(value), bits), bits)
            if operand.is_float:
                return self.splat(float_bits(float(value), bits), bits)
            return self.splat(int(value), bits)
        if isinstance(operand, Sym):
            return self.resize(self.symbol(operand), 64, bits, False)
        if isinstance(operand, Negated):
            value_ = self.read(operand.inner, 1)
            return self.op(f"xor <32 x i1> {value_}, splat (i1 true)")
        return self.fail(f"operand {operand} is not a value")

    def resize(self, value: str, have: int, want: int, signed: bool) -> str:
        """Truncate or extend."""
        if have == want:
            return value
        code = "trunc" if have > want else ("sext" if signed else "zext")
        return self.op(f"{code} {vec(have)} {value} to {vec(want)}")

    def write(self, operand: Operand, value: str, bits: int, signed: bool = False) -> None:
        """Assign to a destination; wider registers get the value extended (PTX ISA 9.4.1)."""
        if isinstance(operand, Sink):
            return
        if not isinstance(operand, Reg) or (operand.name not in self.flow.registers and operand.name != "%cc"):
            self.fail(f"{operand} is not a register that can be written")
        self.set(operand.name, self.resize(value, bits, self.bits_of(operand.name), signed))

    def symbol(self, operand: Sym) -> str:
        """The address of a variable, in its own space (64 bits)."""
        name = operand.name
        layout = self.layout
        if name in layout.shared:
            base = self.op(f"shl i32 {self.cta_field('rank')}, 24")
            base = self.op(f"add i32 {base}, {layout.shared[name] + operand.offset}")
            return self.broadcast(self.op(f"zext i32 {base} to i64"), 64)
        if name in layout.local:
            return self.splat(layout.local[name] + operand.offset, 64)
        if name in layout.globals:
            return self.splat(layout.globals[name] + operand.offset, 64)
        if name in layout.params:
            base = self.context_field("param")
            return self.broadcast(self.op(f"add i64 {base}, {layout.params[name][0] + operand.offset}"), 64)
        return self.fail(f"{name} is not declared")

    def space_of(self, name: str) -> str:
        """The space of a variable."""
        layout = self.layout
        for space, table in (("shared", layout.shared), ("local", layout.local), ("param", layout.params)):
            if name in table:
                return space
        return "global"

    def address(self, operand: Operand) -> str:
        """A bracketed address as 64-bit integers."""
        if not isinstance(operand, Bracket):
            self.fail("expected an address in brackets")
        base = operand.base
        if isinstance(base, Sym):
            return self.symbol(Sym(base.name, base.offset + operand.offset))
        if isinstance(base, Imm):
            return self.splat(int(base.value) + operand.offset, 64)
        assert isinstance(base, Reg)
        value = self.get(base.name)
        have = self.bits_of(base.name)
        if operand.offset:
            value = self.op(f"add {vec(have)} {value}, {self.splat(operand.offset, have)}")
        return self.resize(value, have, 64, False)

    def store_scratch(self, offset: int, value: str, bits: int) -> str:
        """Put a vector where a native helper finds it."""
        where = self.scratch(offset)
        self.do(f"store {vec(bits)} {value}, ptr {where}, align 64")
        return where

    def load_scratch(self, offset: int, bits: int) -> str:
        """Fetch a vector that a native helper left."""
        return self.op(f"load {vec(bits)}, ptr {self.scratch(offset)}, align 64")

    # -- blocks --------------------------------------------------------------------------------------------------

    def begin(self, block: Block) -> None:
        """Start a block: what is certainly assigned needs no check."""
        self.known = set(block.assigned_in or ())

    def begin_instruction(self, i: Instruction, number: int) -> None:
        """Set the guard for the next instruction."""
        self.instruction = i
        self.number = number
        self.guard = None
        self.passing = False
        if i.guard is not None:
            guard = self.get(i.guard)
            if i.guard_negated:
                guard = self.op(f"xor <32 x i1> {guard}, splat (i1 true)")
            self.guard = guard
        self.written = ""
        self.passing = passes_on(i, self.flow.shuffled)
        if self.passing:
            reads = [r for r in reads_writes(i)[0] if r != i.guard]
            for r in reads:
                if r not in self.known and r in self.layout.init_slots:
                    have = self.init_of(r)
                    self.written = self.op(f"and i32 {self.written}, {have}") if self.written else have

    def end_instruction(self) -> None:
        """Keep the sets of assigned registers in step: where an operand is unwritten, so is what it is passed on to."""
        i = self.instruction
        if self.written:
            active = self.active()
            for w in reads_writes(i)[1]:
                if w in self.layout.init_slots:
                    kept = self.op(f"and i32 {self.init_of(w)}, {self.op(f'xor i32 {active}, -1')}")
                    self.inits[w] = self.op(f"or i32 {kept}, {self.op(f'and i32 {self.written}, {active}')}")
        assign(i, self.known, self.flow)

    def flush(self, live_out: AbstractSet[str]) -> None:
        """Write the registers that others need back to the register file, in the active lanes."""
        for register in self.dirty:
            if register in live_out:
                self.store_register(register)
        self.dirty.clear()
        for register, value in self.inits.items():
            where = self.field_pointer(self.registers(), self.layout.init_slots[register])
            old = self.op(f"load i32, ptr {where}")
            keep = self.op(f"and i32 {old}, {self.op(f'xor i32 {self.mask_name}, -1')}")
            new = self.op(f"and i32 {value}, {self.mask_name}")
            self.do(f"store i32 {self.op(f'or i32 {keep}, {new}')}, ptr {where}")
        self.inits.clear()

    def store_register(self, register: str) -> None:
        """Masked write of one register."""
        bits = self.bits_of(register)
        where = self.slot(register)
        value = self.values[register]
        if bits == 1:
            old = self.op(f"load i32, ptr {where}")
            new = self.op(f"bitcast <32 x i1> {value} to i32")
            keep = self.op(f"and i32 {old}, {self.op(f'xor i32 {self.mask_name}, -1')}")
            new = self.op(f"and i32 {new}, {self.mask_name}")
            self.do(f"store i32 {self.op(f'or i32 {keep}, {new}')}, ptr {where}")
            return
        kind = vec(bits)
        old = self.op(f"load {kind}, ptr {where}, align 64")
        new = self.op(f"select <32 x i1> {self.mask_vector()}, {kind} {value}, {kind} {old}")
        self.do(f"store {kind} {new}, ptr {where}, align 64")


def _llvm(kind: object) -> str:
    return str(getattr(kind, "llvm"))  # noqa: B009 - both Scalar and Pointer have it


GENERIC_WINDOWS = {"shared": SHARED_BASE, "local": LOCAL_BASE}

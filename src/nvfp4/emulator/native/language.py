"""A typed subset of Python compiled to LLVM IR.

Why: the runtime of the emulator (memory with shadow state, barriers, the warp scheduler) runs for every warp
instruction, so it must be native; users have no C compiler; and generated IR would not be readable. Functions marked
``@native`` are parsed, never executed by Python. They know numbers, typed pointers ``P[u32]``, structs (always by
pointer), vectors ``V[u32, 16]`` (see vectors.py), ``if``, ``while``, ``for i in range(...)``, calls among themselves,
and the intrinsics in `_Compiler.intrinsic`.

Rules: a variable gets its type from its first assignment. Literals adopt the type of the other operand. Mixed widths
widen; at one width unsigned wins. ``and``/``or`` short-circuit. ``/`` is for floats, ``//`` and ``%`` for integers.
``u32(x)`` converts, ``pointer(u32, address)`` and ``address(p)`` convert between integers and pointers.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from .types import BOOL, SCALARS, Pointer, Scalar, StructType, Type, Vector, alignment, parse_type

__all__ = ["Library", "NativeError"]

I32, I64, U32, U64, F64 = (SCALARS[n] for n in ("i32", "i64", "u32", "u64", "f64"))


class NativeError(TypeError):
    """A native function breaks the rules of the language (a bug of the emulator, not of a kernel)."""


@dataclass(frozen=True)
class _Value:
    """An SSA value, or a literal that has no type yet (``type`` None)."""

    text: str
    type: Type | None
    literal: int | float | None = None


@dataclass(frozen=True)
class _Signature:
    name: str
    parameters: tuple[tuple[str, Type], ...]
    result: Type | None
    inline: bool
    tree: ast.FunctionDef


class Library:
    """A set of native functions and constants that compile to one LLVM module."""

    def __init__(self) -> None:
        self.signatures: dict[str, _Signature] = {}
        self.constants: dict[str, int] = {}
        self.declared: set[str] = set()

    def constant(self, **values: int) -> None:
        """Make integer constants known to the native functions."""
        self.constants.update(values)

    def native(self, function: Callable[..., Any] | None = None, *, inline: bool = False) -> Any:
        """Decorator: add the function to the library. ``inline`` forces inlining."""
        if function is None:
            return lambda f: self.native(f, inline=inline)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        parameters = []
        for argument in tree.args.args:
            if argument.annotation is None:
                raise NativeError(f"{tree.name}: parameter {argument.arg} has no type")
            kind = parse_type(ast.unparse(argument.annotation).strip("'\""))
            parameters.append((argument.arg, Pointer(kind) if isinstance(kind, StructType) else kind))
        result: Type | None = None
        if tree.returns is not None and ast.unparse(tree.returns) != "None":
            result = parse_type(ast.unparse(tree.returns).strip("'\""))
            if isinstance(result, StructType):
                result = Pointer(result)
        self.signatures[tree.name] = _Signature(tree.name, tuple(parameters), result, inline, tree)
        return function

    def declaration(self, name: str) -> str:
        """``declare ...`` of one function, for modules that call it."""
        signature = self.signatures[name]
        result = signature.result.llvm if signature.result else "void"
        return f"declare {result} @{name}({', '.join(t.llvm for _, t in signature.parameters)})"

    def compile(self) -> str:
        """LLVM IR of the whole library."""
        parts = [_Compiler(self, signature).run() for signature in self.signatures.values()]
        return "\n".join([*parts, _MERGE, *_INTRINSIC_DECLARATIONS, *sorted(self.declared)])


_INTRINSIC_DECLARATIONS = [
    "declare i32 @llvm.ctpop.i32(i32)",
    "declare i64 @llvm.ctpop.i64(i64)",
    "declare i32 @llvm.cttz.i32(i32, i1)",
    "declare i64 @llvm.cttz.i64(i64, i1)",
    "declare i32 @llvm.ctlz.i32(i32, i1)",
    "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
    "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
    "declare double @llvm.fma.f64(double, double, double)",
    "declare float @llvm.fma.f32(float, float, float)",
    "declare double @llvm.fabs.f64(double)",
    "declare float @llvm.fabs.f32(float)",
    "declare i1 @llvm.expect.i1(i1, i1)",
]

_MERGE = """define internal void @merge16(ptr %into, ptr %from, i64 %n) nounwind {
entry:
  %any = icmp ne i64 %n, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %a = getelementptr i32, ptr %into, i64 %i
  %b = getelementptr i32, ptr %from, i64 %i
  %x = load <16 x i32>, ptr %a, align 4
  %y = load <16 x i32>, ptr %b, align 4
  %m = call <16 x i32> @llvm.umax.v16i32(<16 x i32> %x, <16 x i32> %y)
  store <16 x i32> %m, ptr %a, align 4
  %next = add i64 %i, 16
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
declare <16 x i32> @llvm.umax.v16i32(<16 x i32>, <16 x i32>)"""

_COMPARE = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}


class _Compiler:
    def __init__(self, library: Library, signature: _Signature) -> None:
        self.library = library
        self.signature = signature
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.variables: dict[str, Type] = {}
        self.counter = 0
        self.loops: list[tuple[str, str]] = []
        self.terminated = False

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        raise NativeError(f"{self.signature.name}:{getattr(node, 'lineno', 0)}: {message}: {ast.unparse(node)}")

    def fresh(self, hint: str = "t") -> str:
        self.counter += 1
        return f"{hint}.{self.counter}"

    def emit(self, text: str) -> None:
        if not self.terminated:
            self.lines.append("  " + text)

    def value(self, text: str, kind: Type) -> _Value:
        name = "%" + self.fresh()
        self.emit(f"{name} = {text}")
        return _Value(name, kind)

    def label(self, name: str) -> None:
        if not self.terminated:
            self.lines.append(f"  br label %{name}")
        self.lines.append(f"{name}:")
        self.terminated = False

    def terminate(self, text: str) -> None:
        self.emit(text)
        self.terminated = True

    def run(self) -> str:
        s = self.signature
        for name, kind in s.parameters:
            self.variables[name] = kind
            self.allocas.append(f"  %{name} = alloca {kind.llvm}")
            self.emit(f"store {kind.llvm} %{name}.in, ptr %{name}")
        self.block(s.tree.body)
        if not self.terminated:
            if s.result is None:
                self.emit("ret void")
            else:
                self.emit("unreachable")
        result = s.result.llvm if s.result else "void"
        head = ", ".join(f"{t.llvm} %{n}.in" for n, t in s.parameters)
        attributes = "alwaysinline nounwind" if s.inline else "nounwind"
        linkage = "internal " if s.inline else ""
        return "\n".join(
            [f"define {linkage}{result} @{s.name}({head}) {attributes} {{", "entry:", *self.allocas, *self.lines, "}"]
        )

    # -- statements ----------------------------------------------------------------------------------------------

    def block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            if self.terminated:
                return
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr):
            if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
                self.expression(node.value, allow_void=True)
        elif isinstance(node, ast.Assign):
            self.assign(node.targets[0], self.expression(node.value))
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            kind = parse_type(ast.unparse(node.annotation))
            kind = Pointer(kind) if isinstance(kind, StructType) else kind
            assert node.value is not None
            self.assign(node.target, self.convert(self.expression(node.value), kind, node))
        elif isinstance(node, ast.AugAssign):
            load = ast.copy_location(_as_load(node.target), node)
            self.assign(node.target, self.binary(node.op, self.expression(load), self.expression(node.value), node))
        elif isinstance(node, ast.If):
            self.if_statement(node)
        elif isinstance(node, ast.While):
            self.while_statement(node)
        elif isinstance(node, ast.For):
            self.for_statement(node)
        elif isinstance(node, ast.Return):
            if node.value is None:
                self.terminate("ret void")
            else:
                assert self.signature.result is not None
                found = self.convert(self.expression(node.value), self.signature.result, node)
                self.terminate(f"ret {self.signature.result.llvm} {found.text}")
        elif isinstance(node, ast.Break):
            self.terminate(f"br label %{self.loops[-1][1]}")
        elif isinstance(node, ast.Continue):
            self.terminate(f"br label %{self.loops[-1][0]}")
        elif not isinstance(node, ast.Pass):
            self.fail(node, "statement is not in the language")

    def assign(self, target: ast.expr, found: _Value) -> None:
        if isinstance(target, ast.Name):
            if target.id not in self.variables:
                kind = found.type or (F64 if isinstance(found.literal, float) else I32)
                self.variables[target.id] = kind
                self.allocas.append(f"  %{target.id} = alloca {kind.llvm}")
            kind = self.variables[target.id]
            found = self.convert(found, kind, target)
            self.emit(f"store {kind.llvm} {found.text}, ptr %{target.id}")
            return
        place, kind = self.place(target)
        found = self.convert(found, kind, target)
        self.emit(f"store {kind.llvm} {found.text}, ptr {place}, align {alignment(kind)}")

    def if_statement(self, node: ast.If) -> None:
        then, other, end = (self.fresh(n) for n in ("then", "else", "end"))
        self.branch(node.test, then, other if node.orelse else end)
        self.terminated = True
        self.lines.append(f"{then}:")
        self.terminated = False
        self.block(node.body)
        if node.orelse:
            if not self.terminated:
                self.terminate(f"br label %{end}")
            self.lines.append(f"{other}:")
            self.terminated = False
            self.block(node.orelse)
        self.label(end)

    def while_statement(self, node: ast.While) -> None:
        head, body, end = (self.fresh(n) for n in ("head", "body", "end"))
        self.label(head)
        self.branch(node.test, body, end)
        self.lines.append(f"{body}:")
        self.terminated = False
        self.loops.append((head, end))
        self.block(node.body)
        self.loops.pop()
        if not self.terminated:
            self.terminate(f"br label %{head}")
        self.lines.append(f"{end}:")
        self.terminated = False

    def for_statement(self, node: ast.For) -> None:
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            self.fail(node, "only range() loops")
        assert isinstance(node.target, ast.Name)
        arguments = [self.expression(a) for a in call.args]
        start = arguments[0] if len(arguments) > 1 else _Value("0", None, 0)
        stop = arguments[1] if len(arguments) > 1 else arguments[0]
        step = arguments[2] if len(arguments) > 2 else _Value("1", None, 1)
        kind = start.type or stop.type or I32
        stop = self.convert(stop, kind, node)
        if node.target.id in self.variables:
            kind = self.variables[node.target.id]
            stop = self.convert(stop, kind, node)
        self.assign(node.target, self.convert(start, kind, node))
        assert isinstance(kind, Scalar)
        head, body, latch, end = (self.fresh(n) for n in ("for", "body", "latch", "end"))
        self.label(head)
        now = self.value(f"load {kind.llvm}, ptr %{node.target.id}", kind)
        test = self.value(f"icmp {'s' if kind.signed else 'u'}lt {kind.llvm} {now.text}, {stop.text}", BOOL)
        self.terminate(f"br i1 {test.text}, label %{body}, label %{end}")
        self.lines.append(f"{body}:")
        self.terminated = False
        self.loops.append((latch, end))
        self.block(node.body)
        self.loops.pop()
        self.label(latch)
        now = self.value(f"load {kind.llvm}, ptr %{node.target.id}", kind)
        self.assign(node.target, self.value(f"add {kind.llvm} {now.text}, {self.convert(step, kind, node).text}", kind))
        self.terminate(f"br label %{head}")
        self.lines.append(f"{end}:")
        self.terminated = False

    def branch(self, test: ast.expr, yes: str, no: str) -> None:
        if isinstance(test, ast.BoolOp):
            for index, part in enumerate(test.values):
                if index == len(test.values) - 1:
                    self.branch(part, yes, no)
                    return
                following = self.fresh("next")
                if isinstance(test.op, ast.And):
                    self.branch(part, following, no)
                else:
                    self.branch(part, yes, following)
                self.lines.append(f"{following}:")
                self.terminated = False
        elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.branch(test.operand, no, yes)
        else:
            found = self.truth(self.expression(test), test)
            self.terminate(f"br i1 {found.text}, label %{yes}, label %{no}")

    # -- expressions ---------------------------------------------------------------------------------------------

    def truth(self, found: _Value, node: ast.AST) -> _Value:
        if found.type is None:
            return _Value("true" if found.literal else "false", BOOL)
        if found.type == BOOL:
            return found
        if isinstance(found.type, Pointer):
            return self.value(f"icmp ne ptr {found.text}, null", BOOL)
        assert isinstance(found.type, Scalar)
        if found.type.floating:
            self.fail(node, "a float is not a condition")
        return self.value(f"icmp ne {found.type.llvm} {found.text}, 0", BOOL)

    def convert(self, found: _Value, kind: Type, node: ast.AST) -> _Value:
        if found.type is None:
            assert found.literal is not None
            if isinstance(kind, Pointer):
                if found.literal:
                    self.fail(node, "only 0 converts to a pointer")
                return _Value("null", kind)
            if isinstance(kind, Vector):
                return _Value(f"splat ({kind.of.llvm} {self.convert(found, kind.of, node).text})", kind)
            assert isinstance(kind, Scalar)
            if kind.floating:
                import struct as _struct

                number = float(found.literal)
                if kind.bits == 32:
                    number = _struct.unpack("<f", _struct.pack("<f", number))[0]
                return _Value(f"0x{_struct.unpack('<Q', _struct.pack('<d', number))[0]:016X}", kind)
            if kind == BOOL:
                return _Value("true" if found.literal else "false", kind)
            masked = int(found.literal) & ((1 << kind.bits) - 1)
            return _Value(str(masked), kind)
        if found.type == kind or (isinstance(kind, Pointer) and isinstance(found.type, Pointer)):
            return _Value(found.text, kind)
        if isinstance(kind, Vector) and isinstance(found.type, Scalar):
            return splat(self, self.convert(found, kind.of, node), kind)
        a, b = found.type, kind
        if isinstance(a, Vector) and isinstance(b, Vector):
            fits = a.count == b.count
        else:
            fits = isinstance(a, Scalar) and isinstance(b, Scalar)
        if not fits:
            self.fail(node, f"cannot convert {a} to {b}")
        assert isinstance(a, (Scalar, Vector))
        assert isinstance(b, (Scalar, Vector))
        if a.floating and b.floating:
            return self.value(f"{'fpext' if a.bits < b.bits else 'fptrunc'} {a.llvm} {found.text} to {b.llvm}", b)
        if a.floating:
            return self.value(f"fpto{'s' if b.signed else 'u'}i {a.llvm} {found.text} to {b.llvm}", b)
        if b.floating:
            return self.value(f"{'s' if a.signed else 'u'}itofp {a.llvm} {found.text} to {b.llvm}", b)
        if b == BOOL:
            return self.truth(found, node)
        if a.bits == b.bits:
            return _Value(found.text, b)
        if a.bits > b.bits:
            return self.value(f"trunc {a.llvm} {found.text} to {b.llvm}", b)
        return self.value(f"{'sext' if a.signed else 'zext'} {a.llvm} {found.text} to {b.llvm}", b)

    def unify(self, a: _Value, b: _Value, node: ast.AST) -> tuple[_Value, _Value, Scalar | Vector]:
        vector = next((v.type for v in (a, b) if isinstance(v.type, Vector)), None)
        kinds = [v.type.of if isinstance(v.type, Vector) else v.type for v in (a, b)]
        first, second = kinds
        if first is None and second is None:
            kind: Type = F64 if isinstance(a.literal, float) or isinstance(b.literal, float) else I64
        elif first is None or second is None:
            known = first if second is None else second
            assert known is not None
            kind = I32 if known == BOOL and vector is None else known
        else:
            if not (isinstance(first, Scalar) and isinstance(second, Scalar)):
                self.fail(node, "operands do not fit")
            if first.floating != second.floating:
                kind = first if first.floating else second
            elif first.bits != second.bits:
                kind = first if first.bits > second.bits else second
            else:
                kind = second if first.signed else first
        assert isinstance(kind, Scalar)
        whole = kind if vector is None else Vector(kind, vector.count)
        return self.convert(a, whole, node), self.convert(b, whole, node), whole

    def expression(self, node: ast.expr, allow_void: bool = False) -> _Value:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, (int, float))
            return _Value("", None, node.value)
        if isinstance(node, ast.Name):
            if node.id in self.variables:
                kind = self.variables[node.id]
                return self.value(f"load {kind.llvm}, ptr %{node.id}", kind)
            if node.id in self.library.constants:
                return _Value("", None, self.library.constants[node.id])
            self.fail(node, "unknown name")
        if isinstance(node, ast.BinOp):
            return self.binary(node.op, self.expression(node.left), self.expression(node.right), node)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.BoolOp):
            return self.materialise(node)
        if isinstance(node, ast.IfExp):
            return self.if_expression(node)
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            place, kind = self.place(node)
            if isinstance(kind, StructType):
                return _Value(place, Pointer(kind))
            return self.value(f"load {kind.llvm}, ptr {place}, align {alignment(kind)}", kind)
        if isinstance(node, ast.Call):
            return self.call(node, allow_void)
        return self.fail(node, "expression is not in the language")

    def materialise(self, node: ast.BoolOp) -> _Value:
        yes, no, end = (self.fresh(n) for n in ("yes", "no", "end"))
        self.branch(node, yes, no)
        for name in (yes, no):
            self.lines.append(f"{name}:")
            self.lines.append(f"  br label %{end}")
        self.lines.append(f"{end}:")
        self.terminated = False
        return self.value(f"phi i1 [true, %{yes}], [false, %{no}]", BOOL)

    def if_expression(self, node: ast.IfExp) -> _Value:
        name = self.fresh("choice")
        test = self.truth(self.expression(node.test), node)
        a, b = self.expression(node.body), self.expression(node.orelse)
        del name
        if isinstance(a.type, Pointer) or isinstance(b.type, Pointer):
            kind: Type = a.type if isinstance(a.type, Pointer) else b.type  # type: ignore[assignment]
            a, b = self.convert(a, kind, node), self.convert(b, kind, node)
        else:
            a, b, kind = self.unify(a, b, node)
        return self.value(f"select i1 {test.text}, {kind.llvm} {a.text}, {kind.llvm} {b.text}", kind)

    def unary(self, node: ast.UnaryOp) -> _Value:
        found = self.expression(node.operand)
        if isinstance(node.op, ast.Not):
            test = self.truth(found, node)
            return self.value(f"xor i1 {test.text}, true", BOOL)
        if found.type is None:
            assert found.literal is not None
            number = -found.literal if isinstance(node.op, ast.USub) else ~int(found.literal)
            return _Value("", None, number)
        assert isinstance(found.type, (Scalar, Vector))
        kind = found.type
        if isinstance(node.op, ast.USub) and kind.floating:
            return self.value(f"fneg {kind.llvm} {found.text}", kind)
        constant = self.convert(_Value("", None, 0 if isinstance(node.op, ast.USub) else -1), kind, node).text
        if isinstance(node.op, ast.USub):
            return self.value(f"sub {kind.llvm} {constant}, {found.text}", kind)
        return self.value(f"xor {kind.llvm} {found.text}, {constant}", kind)

    def compare(self, node: ast.Compare) -> _Value:
        a, b = self.expression(node.left), self.expression(node.comparators[0])
        name = _COMPARE[type(node.ops[0])]
        if isinstance(a.type, Pointer) or isinstance(b.type, Pointer):
            pointer = a.type if isinstance(a.type, Pointer) else b.type
            assert pointer is not None
            a, b = self.convert(a, pointer, node), self.convert(b, pointer, node)
            return self.value(f"icmp {name} ptr {a.text}, {b.text}", BOOL)
        a, b, kind = self.unify(a, b, node)
        truth = Vector(BOOL, kind.count) if isinstance(kind, Vector) else BOOL
        if kind.floating:
            return self.value(f"fcmp {'une' if name == 'ne' else 'o' + name} {kind.llvm} {a.text}, {b.text}", truth)
        prefix = "" if name in ("eq", "ne") else ("s" if kind.signed else "u")
        return self.value(f"icmp {prefix}{name} {kind.llvm} {a.text}, {b.text}", truth)

    def binary(self, op: ast.operator, a: _Value, b: _Value, node: ast.AST) -> _Value:
        if isinstance(a.type, Pointer):
            if not isinstance(op, (ast.Add, ast.Sub)):
                self.fail(node, "pointer arithmetic is + or -")
            offset = (
                self.convert(b, I64, node)
                if b.type is None or b.type == I64
                else self.convert(b, U64 if not _signed(b) else I64, node)
            )
            if isinstance(op, ast.Sub):
                offset = self.value(f"sub i64 0, {offset.text}", I64)
            return self.element(a, offset)
        if a.type is None and b.type is None:
            assert a.literal is not None
            assert b.literal is not None
            return _Value("", None, _fold(op, a.literal, b.literal))
        if isinstance(op, (ast.LShift, ast.RShift)) and a.type is not None:
            assert isinstance(a.type, (Scalar, Vector))
            kind = a.type
            b = self.convert(b, kind, node)
            code = "shl" if isinstance(op, ast.LShift) else ("ashr" if kind.signed else "lshr")
            return self.value(f"{code} {kind.llvm} {a.text}, {b.text}", kind)
        a, b, kind = self.unify(a, b, node)
        if kind == BOOL and not isinstance(op, (ast.BitAnd, ast.BitOr, ast.BitXor)):
            a, b, kind = self.convert(a, I32, node), self.convert(b, I32, node), I32
        if kind.floating:
            code = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}[type(op)]
        else:
            sign = "s" if kind.signed else "u"
            code = {
                ast.Add: "add",
                ast.Sub: "sub",
                ast.Mult: "mul",
                ast.FloorDiv: sign + "div",
                ast.Mod: sign + "rem",
                ast.BitAnd: "and",
                ast.BitOr: "or",
                ast.BitXor: "xor",
                ast.LShift: "shl",
                ast.RShift: "ashr" if kind.signed else "lshr",
            }[type(op)]
        return self.value(f"{code} {kind.llvm} {a.text}, {b.text}", kind)

    # -- memory --------------------------------------------------------------------------------------------------

    def element(self, base: _Value, index: _Value) -> _Value:
        assert isinstance(base.type, Pointer)
        kind = base.type.to
        if isinstance(kind, StructType):
            scaled = self.value(f"mul i64 {index.text}, {kind.size}", I64)
            return self.value(f"getelementptr i8, ptr {base.text}, i64 {scaled.text}", base.type)
        return self.value(f"getelementptr {kind.llvm}, ptr {base.text}, i64 {index.text}", base.type)

    def place(self, node: ast.expr) -> tuple[str, Type]:
        """The address of an attribute or an element, and the type there."""
        if isinstance(node, ast.Attribute):
            base = self.expression(node.value)
            field = self.field(base, node)
            where = self.value(f"getelementptr i8, ptr {base.text}, i64 {field.offset}", base.type or I64)
            return where.text, field.type
        assert isinstance(node, ast.Subscript)
        if isinstance(node.value, ast.Attribute):
            base = self.expression(node.value.value)
            field = self.field(base, node.value)
            if field.count > 1:
                start = self.value(f"getelementptr i8, ptr {base.text}, i64 {field.offset}", Pointer(field.type))
                return self.indexed(start, node)
        return self.indexed(self.expression(node.value), node)

    def indexed(self, base: _Value, node: ast.Subscript) -> tuple[str, Type]:
        if not isinstance(base.type, Pointer):
            self.fail(node, "only pointers have elements")
        index = self.expression(node.slice)
        wide = self.convert(index, I64 if index.type is None or _signed(index) else U64, node)
        return self.element(base, wide).text, base.type.to

    def field(self, base: _Value, node: ast.Attribute) -> Any:
        if not (isinstance(base.type, Pointer) and isinstance(base.type.to, StructType)):
            self.fail(node, "not a struct")
        if node.attr not in base.type.to.fields:
            self.fail(node, f"{base.type.to.name} has no field {node.attr}")
        return base.type.to.fields[node.attr]

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, node: ast.Call, allow_void: bool) -> _Value:
        if not isinstance(node.func, ast.Name):
            self.fail(node, "only plain functions are called")
        name = node.func.id
        if name in SCALARS:
            return self.convert(self.expression(node.args[0]), SCALARS[name], node)
        if name in self.library.signatures:
            s = self.library.signatures[name]
            if len(s.parameters) != len(node.args):
                self.fail(node, f"{name} takes {len(s.parameters)} arguments")
            given = [
                self.convert(self.expression(a), t, node) for a, (_, t) in zip(node.args, s.parameters, strict=True)
            ]
            text = ", ".join(f"{t.llvm} {g.text}" for g, (_, t) in zip(given, s.parameters, strict=True))
            if s.result is None:
                if not allow_void:
                    self.fail(node, "the function returns nothing")
                self.emit(f"call void @{name}({text})")
                return _Value("", None, 0)
            return self.value(f"call {s.result.llvm} @{name}({text})", s.result)
        return self.intrinsic(name, node)

    def intrinsic(self, name: str, node: ast.Call) -> _Value:
        if name == "pointer":
            kind = parse_type(ast.unparse(node.args[0]))
            found = self.expression(node.args[1])
            if isinstance(found.type, Pointer):
                return _Value(found.text, Pointer(kind))
            return self.value(f"inttoptr i64 {self.convert(found, U64, node).text} to ptr", Pointer(kind))
        if name == "local":
            kind, count = parse_type(ast.unparse(node.args[0])), self.expression(node.args[1]).literal
            slot = "%" + self.fresh("local")
            element = (
                f"[{count} x {kind.llvm}]"
                if not isinstance(kind, StructType)
                else f"[{int(count or 1) * kind.size} x i8]"
            )
            self.allocas.append(f"  {slot} = alloca {element}, align 64")
            return _Value(slot, Pointer(kind))
        if name in VECTOR_INTRINSICS:
            return VECTOR_INTRINSICS[name](self, node)
        arguments = [self.expression(a) for a in node.args]
        if name == "address":
            return self.value(f"ptrtoint ptr {arguments[0].text} to i64", U64)
        if name in ("popcount", "ctz", "clz"):
            found = arguments[0] if arguments[0].type else self.convert(arguments[0], U32, node)
            assert isinstance(found.type, Scalar)
            kind = found.type if found.type.bits >= 32 else U32
            found = self.convert(found, kind, node)
            intrinsic = {"popcount": "ctpop", "ctz": "cttz", "clz": "ctlz"}[name]
            tail = "" if name == "popcount" else ", i1 false"
            made = self.value(f"call {kind.llvm} @llvm.{intrinsic}.{kind.llvm}({kind.llvm} {found.text}{tail})", kind)
            return self.convert(made, U32, node)
        if name in ("min", "max"):
            a, b, kind2 = self.unify(arguments[0], arguments[1], node)
            if kind2.floating:
                test = f"fcmp o{'lt' if name == 'min' else 'gt'} {kind2.llvm} {a.text}, {b.text}"
            else:
                order = ("s" if kind2.signed else "u") + ("lt" if name == "min" else "gt")
                test = f"icmp {order} {kind2.llvm} {a.text}, {b.text}"
            truth = Vector(BOOL, kind2.count) if isinstance(kind2, Vector) else BOOL
            chosen = self.value(test, truth)
            return self.value(f"select {truth.llvm} {chosen.text}, {kind2.llvm} {a.text}, {kind2.llvm} {b.text}", kind2)
        if name == "copy":
            size = self.convert(arguments[2], U64, node)
            self.emit(
                f"call void @llvm.memcpy.p0.p0.i64(ptr {arguments[0].text}, ptr {arguments[1].text}, "
                f"i64 {size.text}, i1 false)"
            )
            return _Value("", None, 0)
        if name == "merge":
            # merge(into, source, n): element-wise maximum of n clocks, n a multiple of 16.
            n = self.convert(arguments[2], U64, node)
            self.emit(f"call void @merge16(ptr {arguments[0].text}, ptr {arguments[1].text}, i64 {n.text})")
            return _Value("", None, 0)
        if name == "fill":
            size = self.convert(arguments[2], U64, node)
            byte = self.convert(arguments[1], SCALARS["u8"], node)
            self.emit(
                f"call void @llvm.memset.p0.i64(ptr {arguments[0].text}, i8 {byte.text}, i64 {size.text}, i1 false)"
            )
            return _Value("", None, 0)
        if name == "bits":
            found = arguments[0]
            assert isinstance(found.type, Scalar)
            target = {"float": U32, "double": U64, "i32": SCALARS["f32"], "i64": F64}[found.type.llvm]
            return self.value(f"bitcast {found.type.llvm} {found.text} to {target.llvm}", target)
        if name == "fma":
            a, b, kind3 = self.unify(arguments[0], arguments[1], node)
            c = self.convert(arguments[2], kind3, node)
            suffix = "f32" if kind3.bits == 32 else "f64"
            t = kind3.llvm
            if isinstance(kind3, Vector):
                suffix = f"v{kind3.count}{suffix}"
                self.library.declared.add(f"declare {t} @llvm.fma.{suffix}({t}, {t}, {t})")
            return self.value(f"call {t} @llvm.fma.{suffix}({t} {a.text}, {t} {b.text}, {t} {c.text})", kind3)
        if name == "fabs":
            found = arguments[0]
            assert isinstance(found.type, Scalar)
            suffix = "f32" if found.type.bits == 32 else "f64"
            return self.value(f"call {found.type.llvm} @llvm.fabs.{suffix}({found.type.llvm} {found.text})", found.type)
        if name == "half_to_float":
            narrow = self.value(f"bitcast i16 {self.convert(arguments[0], SCALARS['u16'], node).text} to half", U64)
            return self.value(f"fpext half {narrow.text} to float", SCALARS["f32"])
        if name == "unlikely":
            rare = self.truth(arguments[0], node)
            return self.value(f"call i1 @llvm.expect.i1(i1 {rare.text}, i1 false)", BOOL)
        if name == "invoke":
            # invoke(function address, context, warp, mask): one basic block of a kernel.
            block = self.value(f"inttoptr i64 {self.convert(arguments[0], U64, node).text} to ptr", Pointer(U64))
            mask = self.convert(arguments[3], U32, node)
            return self.value(
                f"call i32 {block.text}(ptr {arguments[1].text}, ptr {arguments[2].text}, i32 {mask.text})", I32
            )
        return self.fail(node, f"unknown function {name}")


# At the end: vectors.py builds on the compiler.
from .vectors import VECTOR_INTRINSICS, splat  # noqa: E402


def _signed(found: _Value) -> bool:
    return isinstance(found.type, Scalar) and found.type.signed


def _fold(op: ast.operator, a: Any, b: Any) -> Any:
    table: dict[Any, Callable[[], Any]] = {
        ast.Add: lambda: a + b,
        ast.Sub: lambda: a - b,
        ast.Mult: lambda: a * b,
        ast.LShift: lambda: a << b,
        ast.RShift: lambda: a >> b,
        ast.BitAnd: lambda: a & b,
        ast.BitOr: lambda: a | b,
        ast.BitXor: lambda: a ^ b,
        ast.FloorDiv: lambda: a // b,
        ast.Mod: lambda: a % b,
    }
    return table[type(op)]()


def _as_load(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body

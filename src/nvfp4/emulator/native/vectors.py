"""What the native language knows of vectors ``V[u32, 16]`` beyond arithmetic and comparison.

Vectors are LLVM's: 512-bit registers where the CPU has them, several narrower ones elsewhere. Operators work element
by element, and a scalar operand counts for every element. ``pointer(V[u32, 16], p)[0]`` loads and stores one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

from .types import BOOL, SCALARS, Pointer, Scalar, Vector, alignment, parse_type

if TYPE_CHECKING:
    from .language import _Compiler, _Value

__all__ = ["VECTOR_INTRINSICS", "splat"]

U32 = SCALARS["u32"]


def splat(c: _Compiler, found: _Value, kind: Vector) -> _Value:
    """A scalar in every element."""
    one = c.value(f"insertelement {kind.llvm} poison, {kind.of.llvm} {found.text}, i64 0", kind)
    zeros = f"<{kind.count} x i32> zeroinitializer"
    return c.value(f"shufflevector {kind.llvm} {one.text}, {kind.llvm} poison, {zeros}", kind)


def _kind(c: _Compiler, node: ast.expr) -> Vector:
    kind = parse_type(ast.unparse(node))
    return kind if isinstance(kind, Vector) else c.fail(node, "not a vector type")


def _vector(c: _Compiler, node: ast.expr) -> tuple[_Value, Vector]:
    found = c.expression(node)
    return (found, found.type) if isinstance(found.type, Vector) else c.fail(node, "not a vector")


def _cast(c: _Compiler, node: ast.Call) -> _Value:
    """cast(V[f64, 8], x): every element converted; a scalar goes to every element."""
    return c.convert(c.expression(node.args[1]), _kind(c, node.args[0]), node)


def _reinterpret(c: _Compiler, node: ast.Call) -> _Value:
    """reinterpret(V[u64, 8], x): the same bits as another vector."""
    kind = _kind(c, node.args[0])
    found, was = _vector(c, node.args[1])
    if was.size != kind.size:
        c.fail(node, "sizes differ")
    return c.value(f"bitcast {was.llvm} {found.text} to {kind.llvm}", kind)


def _iota(c: _Compiler, node: ast.Call) -> _Value:
    """iota(V[u32, 16]): 0, 1, 2, ..."""
    kind = _kind(c, node.args[0])
    numbers = ", ".join(f"{kind.of.llvm} {n}" for n in range(kind.count))
    return c.value(f"add {kind.llvm} zeroinitializer, <{numbers}>", kind)


def _bits(c: _Compiler, node: ast.Call) -> _Value:
    """mask_of(test): a bit for each element of a comparison, u32."""
    found, kind = _vector(c, node.args[0])
    if kind.of != BOOL or kind.count > 32:
        c.fail(node, "not a comparison of up to 32 elements")
    packed = c.value(f"bitcast {kind.llvm} {found.text} to i{kind.count}", U32)
    return packed if kind.count == 32 else c.value(f"zext i{kind.count} {packed.text} to i32", U32)


def _lanes(c: _Compiler, node: ast.Call) -> _Value:
    """lanes_in(bits): a u32 as 32 truths."""
    bits = c.convert(c.expression(node.args[0]), U32, node)
    kind = Vector(BOOL, 32)
    return c.value(f"bitcast i32 {bits.text} to {kind.llvm}", kind)


def _quantifier(operation: str) -> Callable[[_Compiler, ast.Call], _Value]:
    def emit(c: _Compiler, node: ast.Call) -> _Value:
        found, kind = _vector(c, node.args[0])
        if kind.of != BOOL:
            c.fail(node, "not a comparison")
        packed = c.value(f"bitcast {kind.llvm} {found.text} to i{kind.count}", U32)
        wanted = "ne" if operation == "any" else "eq"
        return c.value(f"icmp {wanted} i{kind.count} {packed.text}, {0 if operation == 'any' else -1}", BOOL)

    return emit


def _select(c: _Compiler, node: ast.Call) -> _Value:
    """select(test, a, b), element by element."""
    test, kind = _vector(c, node.args[0])
    a, b, of = c.unify(c.expression(node.args[1]), c.expression(node.args[2]), node)
    whole = of if isinstance(of, Vector) else Vector(of, kind.count)
    a, b = c.convert(a, whole, node), c.convert(b, whole, node)
    return c.value(f"select {kind.llvm} {test.text}, {whole.llvm} {a.text}, {whole.llvm} {b.text}", whole)


def _gather(c: _Compiler, node: ast.Call) -> _Value:
    """gather(p, index): p[index] for every element of an index vector."""
    base, (index, kind) = c.expression(node.args[0]), _vector(c, node.args[1])
    if not (isinstance(base.type, Pointer) and isinstance(base.type.to, Scalar)):
        c.fail(node, "gathers from pointers to numbers")
    of = base.type.to
    wide = c.convert(index, Vector(SCALARS["i64" if kind.signed else "u64"], kind.count), node)
    out = Vector(of, kind.count)
    places = Vector(SCALARS["u64"], kind.count)
    where = c.value(
        f"getelementptr {of.llvm}, ptr {base.text}, <{kind.count} x i64> {wide.text}",
        places,
    )
    name = f"@llvm.masked.gather.v{kind.count}{'f' if of.floating else 'i'}{of.bits}.v{kind.count}p0"
    test = f"<{kind.count} x i1>"
    c.library.declared.add(f"declare {out.llvm} {name}(<{kind.count} x ptr>, i32, {test}, {out.llvm})")
    return c.value(
        f"call {out.llvm} {name}(<{kind.count} x ptr> {where.text}, i32 {alignment(of)}, {test} splat (i1 true), "
        f"{out.llvm} poison)",
        out,
    )


def _shuffled(c: _Compiler, a: _Value, b: _Value, order: list[int]) -> _Value:
    assert isinstance(a.type, Vector)
    kind = Vector(a.type.of, len(order))
    text = ", ".join(f"i32 {n}" for n in order)
    return c.value(f"shufflevector {a.type.llvm} {a.text}, {a.type.llvm} {b.text}, <{len(order)} x i32> <{text}>", kind)


def _literals(c: _Compiler, nodes: list[ast.expr]) -> list[int]:
    found = [c.expression(n).literal for n in nodes]
    if any(n is None for n in found):
        c.fail(nodes[0], "must be constants")
    return [int(n) for n in found if n is not None]


def _part(c: _Compiler, node: ast.Call) -> _Value:
    """part(x, first, count{, step}): some elements of a vector."""
    found, _ = _vector(c, node.args[0])
    first, count, *step = _literals(c, node.args[1:])
    stride = step[0] if step else 1
    return _shuffled(c, found, found, [first + k * stride for k in range(count)])


def _join(c: _Compiler, node: ast.Call) -> _Value:
    """join(a, b): one vector behind the other."""
    a, kind = _vector(c, node.args[0])
    b, _ = _vector(c, node.args[1])
    return _shuffled(c, a, b, list(range(2 * kind.count)))


def _weave(c: _Compiler, node: ast.Call) -> _Value:
    """weave(a, b): elements in turn."""
    a, kind = _vector(c, node.args[0])
    b, _ = _vector(c, node.args[1])
    return _shuffled(c, a, b, [n for k in range(kind.count) for n in (k, kind.count + k)])


def _reduce_or(c: _Compiler, node: ast.Call) -> _Value:
    """reduce_or(x): the bits that any element has."""
    found, kind = _vector(c, node.args[0])
    name = f"@llvm.vector.reduce.or.v{kind.count}i{kind.bits}"
    c.library.declared.add(f"declare {kind.of.llvm} {name}({kind.llvm})")
    return c.value(f"call {kind.of.llvm} {name}({kind.llvm} {found.text})", kind.of)


VECTOR_INTRINSICS: dict[str, Callable[[_Compiler, ast.Call], _Value]] = {
    "cast": _cast,
    "reinterpret": _reinterpret,
    "iota": _iota,
    "mask_of": _bits,
    "lanes_in": _lanes,
    "any": _quantifier("any"),
    "all": _quantifier("all"),
    "select": _select,
    "gather": _gather,
    "part": _part,
    "join": _join,
    "weave": _weave,
    "reduce_or": _reduce_or,
}

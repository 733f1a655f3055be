"""A recursive-descent parser for PTX modules (PTX ISA, sections 4, 5 and 11)."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import NoReturn

from ..errors import PtxSyntaxError
from .ast import (
    Bracket,
    Function,
    Imm,
    Instruction,
    Label,
    Location,
    Negated,
    Operand,
    Pair,
    PtxModule,
    Reg,
    Sink,
    Sym,
    Variable,
    Vec,
    type_bits,
)

__all__ = ["parse"]

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f]+)|(?P<newline>\n)|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>"(?:[^"\\]|\\.)*")
      |(?P<float>0[fF][0-9a-fA-F]{8}(?![0-9a-fA-F])|0[dD][0-9a-fA-F]{16}|\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
      |(?P<int>0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+U?)
      |(?P<word>[%$_a-zA-Z][\w$]*(?:(?:\.|::)[\w$]+)*|\.[a-zA-Z_][\w$]*(?:(?:\.|::)[\w$]+)*)
      |(?P<punct>[{}()\[\],;:@!|=<>+\-*/&~^?])""",
    re.VERBOSE | re.DOTALL,
)
_SPECIAL = re.compile(
    r"%(tid|ntid|ctaid|nctaid|clusterid|nclusterid|cluster_ctaid|cluster_nctaid)\.[xyzw]$|"
    r"%(laneid|warpid|nwarpid|smid|nsmid|gridid|is_explicit_cluster|cluster_ctarank|cluster_nctarank|lanemask_(eq|le|lt|ge|gt)|"
    r"clock|clock_hi|clock64|globaltimer|globaltimer_lo|globaltimer_hi|total_smem_size|aggr_smem_size|dynamic_smem_size|"
    r"current_graph_exec|pm\d+|pm\d+_64|envreg\d+|reserved_smem_offset_\w+)$"
)
_SPACES = {".global", ".const", ".shared", ".local", ".param", ".shared::cta", ".shared::cluster"}
_LINKAGE = {".visible", ".extern", ".weak", ".common"}
_PERFORMANCE = {
    ".maxntid": "maxntid",
    ".reqntid": "reqntid",
    ".minnctapersm": "minnctapersm",
    ".maxnreg": "maxnreg",
    ".maxnctapersm": "maxnctapersm",
    ".reqnctapercluster": "reqnctapercluster",
    ".maxclusterrank": "maxclusterrank",
    ".explicitcluster": "explicitcluster",
    ".noreturn": "noreturn",
    ".blocksareclusters": "blocksareclusters",
    ".abi_preserve": "abi_preserve",
    ".abi_preserve_control": "abi_preserve_control",
}


class _Scope:
    def __init__(self, parent: _Scope | None, serial: int) -> None:
        self.parent = parent
        self.serial = serial
        self.names: dict[str, str] = {}
        self.ranges: list[tuple[str, int]] = []

    def find(self, name: str) -> str | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None


class _Parser:
    def __init__(self, text: str) -> None:
        self.source = text.split("\n")
        self.kinds: list[str] = []
        self.values: list[str] = []
        self.line_of: list[int] = []
        self._tokenize(text)
        self.at = 0
        self.module = PtxModule("", "", {}, {}, {}, {}, self.source)
        self.function: Function | None = None
        self.scope: _Scope | None = None
        self.serial = 0
        self.loc: Location | None = None

    # -- tokens ------------------------------------------------------------------------------------------------

    def _tokenize(self, text: str) -> None:
        position, line, end = 0, 1, len(text)
        match = _TOKEN.match
        while position < end:
            found = match(text, position)
            if found is None:
                raise PtxSyntaxError(f"unexpected character {text[position]!r}", line, self.source[line - 1])
            kind = found.lastgroup
            assert kind is not None
            value = found.group()
            position = found.end()
            if kind == "newline":
                line += 1
            elif kind == "comment":
                line += value.count("\n")
            elif kind != "space":
                self.kinds.append(kind)
                self.values.append(value)
                self.line_of.append(line)
        self.kinds.append("end")
        self.values.append("")
        self.line_of.append(line)

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        where = self.line_of[self.at] if line is None else line
        text = self.source[where - 1] if 0 < where <= len(self.source) else ""
        raise PtxSyntaxError(message, where, text)

    @property
    def value(self) -> str:
        return self.values[self.at]

    @property
    def kind(self) -> str:
        return self.kinds[self.at]

    def take(self) -> str:
        value = self.values[self.at]
        if self.kinds[self.at] == "end":
            self.fail("unexpected end of the file")
        self.at += 1
        return value

    def accept(self, value: str) -> bool:
        if self.values[self.at] == value and self.kinds[self.at] != "string":
            self.at += 1
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.accept(value):
            self.fail(f"expected {value!r}, got {self.value!r}")

    def integer(self) -> int:
        negative = self.accept("-")
        if self.kind != "int":
            self.fail(f"expected an integer, got {self.value!r}")
        number = int(_int(self.take()))
        return -number if negative else number

    def rest_of_line(self) -> list[str]:
        line, found = self.line_of[self.at - 1], []
        while self.kind != "end" and self.line_of[self.at] == line:
            found.append(self.take())
        return found

    # -- module ------------------------------------------------------------------------------------------------

    def parse(self) -> PtxModule:
        while self.kind != "end":
            word = self.value
            if word == ".version":
                self.take()
                self.module.version = "".join(self.rest_of_line())
            elif word == ".target":
                self.take()
                self.module.target = "".join(self.rest_of_line())
            elif word == ".address_size":
                self.take()
                if self.integer() != 64:
                    self.fail("only .address_size 64 is supported", self.line_of[self.at - 1])
            elif word == ".file":
                self.file_directive()
            elif word == ".loc":
                self.loc_directive()
            elif word == ".section":
                self.skip_section()
            elif word == ".pragma":
                self.skip_to(";")
            elif word == ".alias":
                self.fail(".alias is not supported")
            elif word == ";":
                self.take()
            else:
                self.declaration()
        if not self.module.version:
            raise PtxSyntaxError("not a PTX module: no .version directive", 1, self.source[0] if self.source else "")
        return self.module

    def file_directive(self) -> None:
        self.take()
        index = self.integer()
        if self.kind != "string":
            self.fail("expected a file name in quotes")
        self.module.files[index] = self.take()[1:-1]
        if self.accept(","):
            self.integer()
            self.expect(",")
            self.integer()

    def loc_directive(self) -> None:
        self.take()
        line = self.line_of[self.at - 1]
        file, row, column = self.integer(), self.integer(), self.integer()
        self.loc = Location(file, row, column)
        while self.kind != "end" and self.line_of[self.at] == line:
            self.take()

    def skip_section(self) -> None:
        while not self.accept("{"):
            self.take()
        depth = 1
        while depth:
            word = self.take()
            depth += (word == "{") - (word == "}")

    def skip_to(self, stop: str) -> None:
        while self.take() != stop:
            pass

    def declaration(self) -> None:
        start = self.at
        linkage = set()
        while self.value in _LINKAGE:
            linkage.add(self.take())
        if self.value == ".entry":
            self.take()
            self.function_declaration(True)
        elif self.value == ".func":
            self.take()
            self.function_declaration(False)
        elif self.value in _SPACES:
            for variable in self.variable(".extern" in linkage):
                self.module.variables[variable.name] = variable
        else:
            self.at = start
            self.fail(f"expected a declaration, got {self.values[self.at]!r}")

    # -- variables ---------------------------------------------------------------------------------------------

    def variable(self, extern: bool) -> list[Variable]:
        line = self.line_of[self.at]
        space = self.take()[1:].split("::")[0]
        align, vector, kind = 0, 1, ""
        while self.value.startswith("."):
            word = self.take()
            if word == ".align":
                align = self.integer()
            elif word in (".v2", ".v4"):
                vector = int(word[2:])
            elif word == ".attribute":
                self.expect("(")
                self.skip_to(")")
            elif word in (".ptr",):
                continue
            else:
                kind = word[1:]
        if not kind:
            self.fail("a variable needs a type")
        try:
            element = max(1, type_bits(kind) // 8) * vector
        except KeyError:
            self.fail(f"unknown type .{kind}", line)
        found = []
        while True:
            name = self.take()
            count, open_ended = 1, False
            while self.accept("["):
                if self.accept("]"):
                    open_ended = True
                    continue
                count *= self.integer()
                self.expect("]")
            initial: bytes | None = None
            relocations: list[tuple[int, str, int]] = []
            if self.accept("="):
                initial, relocations, given = self.initializer(kind, element // vector)
                if open_ended:
                    count, open_ended = given // vector, False
            size = 0 if open_ended and extern else element * count
            if initial is not None:
                initial = initial.ljust(size, b"\0")
            found.append(
                Variable(name, space, kind, align or element, size, line, initial, tuple(relocations), count * vector)
            )
            if not self.accept(","):
                break
        self.expect(";")
        return found

    def initializer(self, kind: str, width: int) -> tuple[bytes, list[tuple[int, str, int]], int]:
        data = bytearray()
        relocations: list[tuple[int, str, int]] = []

        def scalar() -> None:
            negative = self.accept("-")
            if self.kind == "string":
                data.extend(self.take()[1:-1].encode().decode("unicode_escape").encode("latin1"))
                return
            if self.kind == "word":
                name = self.take()
                if name == "generic":
                    self.expect("(")
                    name = self.take()
                    self.expect(")")
                offset = self.integer() if self.accept("+") else 0
                relocations.append((len(data), name, offset))
                data.extend(bytes(width))
                return
            text = self.take()
            if text[:2].lower() in ("0f", "0d") or "." in text or (kind[0] == "f" and "x" not in text.lower()):
                number = _float(text)
                number = -number if negative else number
                data.extend(struct.pack("<f" if width == 4 else "<d", number))
                return
            integer = -_int(text) if negative else _int(text)
            data.extend((integer & ((1 << (8 * width)) - 1)).to_bytes(width, "little"))

        def group() -> None:
            if self.accept("{"):
                while not self.accept("}"):
                    group()
                    self.accept(",")
            else:
                scalar()

        group()
        return bytes(data), relocations, len(data) // width

    # -- functions ---------------------------------------------------------------------------------------------

    def parameters(self) -> list[Variable]:
        found: list[Variable] = []
        self.expect("(")
        while not self.accept(")"):
            line = self.line_of[self.at]
            space = self.take()[1:]
            align, kind = 0, ""
            while self.value.startswith("."):
                word = self.take()
                if word == ".align":
                    align = self.integer()
                elif word in (".ptr", ".global", ".const", ".shared", ".local"):
                    continue
                else:
                    kind = word[1:]
            name = self.take()
            count = 1
            while self.accept("["):
                if self.accept("]"):
                    continue
                count *= self.integer()
                self.expect("]")
            width = max(1, type_bits(kind) // 8)
            # `.ptr .align 16` gives the alignment of the memory pointed to, which does not lay out the parameter.
            own = max(align, width) if count > 1 else width
            found.append(Variable(name, space, kind, own, width * count, line, None, (), count))
            self.accept(",")
        return found

    def function_declaration(self, is_entry: bool) -> None:
        line = self.line_of[self.at]
        returns = self.parameters() if self.value == "(" else []
        name = self.take()
        parameters = self.parameters() if self.value == "(" else []
        function = Function(name, parameters, returns, line=line)
        while self.value in _PERFORMANCE:
            key = _PERFORMANCE[self.take()]
            numbers: list[int] = []
            while self.kind == "int":
                numbers.append(self.integer())
                self.accept(",")
            function.directives[key] = tuple(numbers)
        if self.accept(";"):
            function.has_body = False
            self.module.functions.setdefault(name, function)
            return
        self.function = function
        self.scope = _Scope(None, 0)
        for parameter in (*parameters, *returns):
            if parameter.space == "reg":
                self.scope.names[parameter.name] = parameter.name
                function.registers[parameter.name] = parameter.type
        self.block()
        self.scope = None
        self.function = None
        (self.module.entries if is_entry else self.module.functions)[name] = function

    def block(self) -> None:
        """One ``{ ... }``: what it declares is local: names are made unique, labels resolved at its end."""
        assert self.function is not None
        assert self.scope is not None
        function, scope = self.function, self.scope
        self.expect("{")
        start = len(function.body)
        labels: dict[str, str] = {}
        while not self.accept("}"):
            word = self.value
            if word == "{":
                self.serial += 1
                self.scope = _Scope(scope, self.serial)
                self.block()
                self.scope = scope
            elif word == ".loc":
                self.loc_directive()
            elif word == ".reg":
                self.register_declaration()
            elif word == ".pragma":
                self.skip_to(";")
            elif word in _SPACES or word in _LINKAGE:
                extern = False
                while self.value in _LINKAGE:
                    extern |= self.take() == ".extern"
                for variable in self.variable(extern):
                    unique = self.declare(variable.name)
                    function.variables[unique] = replace(variable, name=unique)
            elif word == ";":
                self.take()
            elif self.kind == "word" and self.values[self.at + 1] == ":" and not word.startswith("."):
                self.take()
                self.take()
                if self.value == ".branchtargets":
                    self.take()
                    targets = []
                    while True:
                        targets.append(self.take())
                        if not self.accept(","):
                            break
                    self.expect(";")
                    function.branch_targets[word] = tuple(targets)
                elif self.value in (".callprototype", ".calltargets"):
                    self.skip_to(";")
                else:
                    unique = word if scope.serial == 0 else f"{word}${scope.serial}"
                    if word in labels:
                        self.fail(f"label {word} is defined twice", self.line_of[self.at - 1])
                    labels[word] = unique
                    function.body.append(Label(unique))
            elif word.startswith("."):
                self.fail(f"unexpected directive {word}")
            else:
                function.body.append(self.instruction())
        if labels:
            self.resolve_labels(start, labels)

    def resolve_labels(self, start: int, labels: dict[str, str]) -> None:
        assert self.function is not None
        body = self.function.body
        for index in range(start, len(body)):
            item = body[index]
            if isinstance(item, Instruction) and item.base in ("bra", "brx"):
                item.operands = tuple(
                    Label(labels[o.name]) if isinstance(o, (Label, Sym)) and o.name in labels else o
                    for o in item.operands
                )
        for name, targets in self.function.branch_targets.items():
            self.function.branch_targets[name] = tuple(labels.get(t, t) for t in targets)

    def declare(self, name: str) -> str:
        assert self.scope is not None
        unique = name if self.scope.serial == 0 else f"{name}${self.scope.serial}"
        self.scope.names[name] = unique
        return unique

    def register_declaration(self) -> None:
        assert self.function is not None
        self.take()
        words = [self.take()]
        while self.value.startswith("."):
            words.append(self.take())
        kind = words[-1][1:]
        try:
            type_bits(kind)
        except KeyError:
            self.fail(f"unknown register type .{kind}")
        if len(words) > 1 and words[0] in (".v2", ".v4"):
            self.fail("vector register declarations are not supported; declare the elements")
        while True:
            name = self.take()
            if self.accept("<"):
                count = self.integer()
                self.expect(">")
                for index in range(count):
                    self.function.registers[self.declare(f"{name}{index}")] = kind
            else:
                self.function.registers[self.declare(name)] = kind
            if not self.accept(","):
                break
        self.expect(";")

    # -- instructions ------------------------------------------------------------------------------------------

    def instruction(self) -> Instruction:
        begin, line = self.at, self.line_of[self.at]
        guard: str | None = None
        negated = False
        if self.accept("@"):
            negated = self.accept("!")
            guard = self.register(self.take())
        if self.kind == "end":
            self.fail("unexpected end of the file inside a body")
        if self.kind != "word":
            self.fail(f"expected an instruction, got {self.value!r}")
        opcode = self.take()
        parts = tuple(opcode.split("."))
        if parts[0] == "call":
            return self.call(opcode, parts, line, guard, negated)
        operands: list[Operand] = []
        if not self.accept(";"):
            while True:
                operands.append(self.operand(parts[0] in ("bra", "brx")))
                if self.accept(";"):
                    break
                if not self.accept(","):
                    self.fail(f"expected ',' or ';' after an operand of {opcode}, got {self.value!r}")
        text = " ".join(self.values[begin : self.at - 1]).replace(" ,", ",")
        return Instruction(opcode, parts, tuple(operands), line, self.loc, guard, negated, text)

    def call(self, opcode: str, parts: tuple[str, ...], line: int, guard: str | None, negated: bool) -> Instruction:
        """``call (ret), name, (args), prototype;``: operands become returns, name, arguments."""
        results: tuple[Operand, ...] = ()
        if self.value == "(":
            results = self.argument_list()
            self.expect(",")
        target = self.operand(False)
        arguments: tuple[Operand, ...] = ()
        if self.accept(","):
            if self.value == "(":
                arguments = self.argument_list()
                if self.accept(","):
                    self.take()
            else:
                self.take()
        self.expect(";")
        return Instruction(
            opcode, parts, (Vec(results), target, Vec(arguments)), line, self.loc, guard, negated, opcode
        )

    def argument_list(self) -> tuple[Operand, ...]:
        self.expect("(")
        found: list[Operand] = []
        while not self.accept(")"):
            found.append(self.operand(False))
            self.accept(",")
        return tuple(found)

    def register(self, name: str) -> str:
        assert self.scope is not None
        unique = self.scope.find(name)
        if unique is None:
            if _SPECIAL.match(name):
                return name
            self.fail(f"{name} is not declared", self.line_of[self.at - 1])
        return unique

    def operand(self, branch: bool) -> Operand:
        first = self.primary(branch)
        if self.accept("|"):
            return Pair(first, self.primary(False))
        return first

    def primary(self, branch: bool) -> Operand:
        value, kind = self.value, self.kind
        if value == "{":
            self.take()
            items: list[Operand] = []
            while not self.accept("}"):
                items.append(self.operand(False))
                if not self.accept(",") and self.value != "}":
                    self.fail(f"expected ',' or '}}', got {self.value!r}")
            return Vec(tuple(items))
        if value == "[":
            return self.bracket()
        if value == "!":
            self.take()
            return Negated(self.primary(False))
        if value == "-" or value == "~" or value == "+" or kind in ("int", "float"):
            return self.literal()
        if value == "(":
            self.take()
            inner = self.literal()
            self.expect(")")
            return inner
        if kind == "word":
            self.take()
            if value == "_":
                return Sink()
            if branch:
                assert self.scope is not None
                unique = self.scope.find(value)
                return Reg(unique) if unique is not None else Label(value)
            return self.named(value)
        return self.fail(f"expected an operand, got {value!r}")

    def named(self, value: str) -> Operand:
        assert self.scope is not None
        assert self.function is not None
        unique = self.scope.find(value)
        if unique is not None and unique in self.function.registers:
            return Reg(unique)
        if _SPECIAL.match(value):
            return Reg(value)
        if value == "WARP_SZ":
            return Imm(32)
        name = unique if unique is not None else value
        known = unique is not None or value in self.module.variables or value in self.module.functions
        known = known or any(p.name == value for p in (*self.function.parameters, *self.function.returns))
        if not known and value.startswith("%"):
            self.fail(f"{value} is not declared", self.line_of[self.at - 1])
        offset = 0
        while self.value in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            offset += sign * self.integer()
        return Sym(name, offset)

    def literal(self) -> Imm:
        if self.accept("~"):
            inner = self.literal()
            return Imm(~int(inner.value))
        negative = False
        while self.value in ("-", "+"):
            negative ^= self.take() == "-"
        if self.kind == "float":
            number = _float(self.take())
            return Imm(-number if negative else number, True)
        if self.kind != "int":
            self.fail(f"expected a number, got {self.value!r}")
        integer = _int(self.take())
        return Imm(-integer if negative else integer)

    def bracket(self) -> Bracket:
        self.expect("[")
        base = self.primary(False)
        offset = 0
        if isinstance(base, Sym):
            base, offset = Sym(base.name), base.offset
        while self.value in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            offset += sign * self.integer()
        more: list[Operand] = []
        while self.accept(","):
            more.append(self.primary(False))
        self.expect("]")
        return Bracket(base, offset, tuple(more))


def _int(text: str) -> int:
    text = text.rstrip("U")
    if len(text) > 1 and text[0] == "0" and text[1] in "01234567":
        return int(text, 8)
    return int(text, 0)


def _float(text: str) -> float:
    head = text[:2].lower()
    if head == "0f":
        return float(struct.unpack("<f", struct.pack("<I", int(text[2:], 16)))[0])
    if head == "0d":
        return float(struct.unpack("<d", struct.pack("<Q", int(text[2:], 16)))[0])
    return float(text)


def parse(text: str) -> PtxModule:
    """Parse PTX ``text``.

    Raises:
        PtxSyntaxError: with the line and its text, where the module is malformed.
    """
    return _Parser(text).parse()

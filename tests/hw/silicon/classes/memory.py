"""Loads and stores of every width in every space, address conversion, special registers (PTX ISA 9.7.9)."""

# Inline PTX stays on the line of its instruction.
# ruff: noqa: E501
from __future__ import annotations

from ..program import PRELUDE, In, Int, Out, Program, random_bytes

_TYPES = {
    "u8": ("r", "u32"), "s8": ("r", "u32"), "u16": ("h", "u16"), "s16": ("r", "u32"), "b8": ("h", "u16"), "b16": ("h", "u16"),
    "u32": ("r", "u32"), "s32": ("r", "u32"), "b32": ("r", "u32"), "f32": ("r", "u32"), "u64": ("l", "u64"), "s64": ("l", "u64"),
    "b64": ("l", "u64"), "f64": ("l", "u64"),
}  # fmt: skip


def _load(name: str, kind: str, count: int, address: str, row: int) -> str:
    constraint, ctype = _TYPES[kind]
    vector = f".v{count}" if count > 1 else ""
    targets = ", ".join(f"%{i}" for i in range(count))
    targets = "{" + targets + "}" if count > 1 else targets
    outs = ", ".join(f'"={constraint}"(d[{i}])' for i in range(count))
    pointer = '"r"' if ".shared" in name else '"l"'
    stores = " ".join(f"out[({row + i}) * 32 + lane] = (u64)d[{i}];" for i in range(count))
    return (
        f'    {{ {ctype} d[{count}]; asm volatile("{name}{vector}.{kind} {targets}, [%{count} + 16];" : {outs} : '
        f'{pointer}({address}) : "memory"); {stores} }}\n'
    )


def _loads() -> Program:
    """Each lane reads at its own 48 bytes, 16 further; registers are recorded with what extension left in them."""
    shapes = [(t, 1) for t in _TYPES] + [("u8", 2), ("u8", 4), ("b8", 4), ("u16", 2), ("b16", 4), ("s16", 4), ("s8", 4), ("u32", 2),
              ("b32", 4), ("f32", 4), ("u64", 2), ("b64", 2), ("f64", 2)]  # fmt: skip
    text, row = "", 0
    generic, shared = "(u64)(in + 48 * lane)", "shared_address(tile + 48 * lane)"
    spaces = [("ld", generic), ("ld.global", generic), ("ld.shared", shared)]
    for name, address in spaces:
        for kind, count in shapes:
            text += _load(name, kind, count, address, row)
            row += count
    for name in ("ld.global.nc", "ld.global.ca", "ld.global.cg", "ld.global.cs", "ld.global.lu", "ld.global.cv", "ld.volatile.global",
                 "ld.relaxed.gpu.global", "ld.acquire.gpu.global", "ld.acquire.sys.global", "ld.weak.global",
                 "ld.global.L1::no_allocate", "ld.global.nc.L1::evict_last", "ld.global.L2::128B",
                 "ld.global.nc.L1::no_allocate.L2::256B"):  # fmt: skip
        for kind, count in (
            (("u32", 1), ("b64", 2)) if "nc" in name or ".c" in name or "L" in name else (("u32", 1), ("u8", 1))
        ):
            text += _load(name, kind, count, generic, row)
            row += count
    for name, address in (("ld.shared::cta", shared), ("ld.volatile.shared", shared), ("ld.acquire.cta.shared", shared),
                          ("ld.relaxed.cluster.shared::cluster", shared), ("ld.const", "(u64)0")):  # fmt: skip
        if name == "ld.const":
            continue
        text += _load(name, "b32", 1, address, row)
        row += 1
    # Generic addresses of shared, constant and local memory.
    text += _load("ld", "b32", 4, "(u64)(tile + 48 * lane)", row)
    row += 4
    text += f"    out[{row} * 32 + lane] = table_[(lane * 7) & 15];\n"
    row += 1
    text += _load("ld", "u16", 1, "(u64)((const u8*)table_ + 2 * (lane & 15))", row)
    row += 1
    text += "    u32 mine[24]; for (u32 j = 0; j < 24; ++j) mine[(j * 5) % 24] = j * 1000 + lane + n;\n"
    text += f"    out[{row} * 32 + lane] = mine[(lane * 11 + n) % 24];\n"
    row += 1
    text += _load("ld", "b32", 2, "(u64)(mine + 2 * (lane & 7))", row)
    row += 2
    for i, space in enumerate(("global", "shared", "local", "const", "shared::cluster")):
        for j, p in enumerate(("(u64)in", "(u64)tile", "(u64)mine", "(u64)table_")):
            text += (
                f'    {{ u32 d; asm volatile("{{ .reg .pred p; isspacep.{space} p, %1; selp.u32 %0, 1, 0, p; }}" : "=r"(d) : "l"({p}));'
                f" out[{row + 4 * i + j} * 32 + lane] = d; }}\n"
            )
    row += 20
    source = f"""{PRELUDE}
__constant__ u32 table_[32] = {{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 0x80000001u}};
extern "C" __global__ void kernel(const u8* in, u64* out, u32 n) {{
    __shared__ __align__(16) u8 tile[2048];
    u32 lane = threadIdx.x;
    for (u32 i = lane; i < 2048; i += 32) tile[i] = in[i] ^ 0x5A;
    __syncthreads();
{text}}}
"""
    covers = (
        "ld",
        "ld.global",
        "ld.global.nc",
        "ld.shared",
        "ld.const",
        "ld.local",
        "ld.volatile",
        "ld.acquire",
        "ld.relaxed",
        "isspacep",
        "cvta",
    )
    args = (In("in"), Out("out", "uint64", (row, 32)), Int(0))
    return Program("memory/loads", "loads and stores", covers, source, args, {"in": random_bytes("loads", 2048)})


def _stores() -> Program:
    """Each lane writes at its own 64 bytes of a region, one region a form; what was not written keeps its poison."""
    text, region = "", 0
    shapes = [("u8", 1), ("s16", 1), ("b32", 1), ("f64", 1), ("u8", 2), ("b8", 4), ("u16", 2), ("b16", 4), ("u32", 2), ("b32", 4),
              ("b64", 2), ("f32", 4)]  # fmt: skip
    for space in ("global", "shared", ""):
        for kind, count in shapes:
            constraint, ctype = _TYPES[kind]
            vector = f".v{count}" if count > 1 else ""
            values = ", ".join(f"%{i + 1}" for i in range(count))
            values = "{" + values + "}" if count > 1 else values
            ins = ", ".join(f'"{constraint}"(({ctype})(v * {2 * i + 3}ull + {i}))' for i in range(count))
            if space == "shared":
                pointer = '"r"(shared_address(tile + 64 * lane))'
                text += "    for (u32 i = lane; i < 2048; i += 32) tile[i] = 0xCD; __syncthreads();\n"
            else:
                pointer = f'"l"((u64)(out + {region * 2048} + 64 * lane))'
            name = f"st.{space}" if space else "st"
            text += f'    asm volatile("{name}{vector}.{kind} [%0 + 32], {values};" :: {pointer}, {ins} : "memory");\n'
            if space == "shared":
                text += f"    __syncthreads(); for (u32 i = lane; i < 2048; i += 32) out[{region * 2048} + i] = tile[i]; __syncthreads();\n"
            region += 1
    for name in ("st.global.wb", "st.global.cg", "st.global.cs", "st.global.wt", "st.volatile.global", "st.relaxed.gpu.global",
                 "st.release.gpu.global", "st.global.L1::no_allocate"):  # fmt: skip
        text += f'    asm volatile("{name}.b32 [%0], %1;" :: "l"((u64)(out + {region * 2048} + 64 * lane)), "r"((u32)v) : "memory");\n'
        region += 1
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(const u64* in, u8* out) {{
    __shared__ __align__(16) u8 tile[2048];
    u32 lane = threadIdx.x;
    u64 v = in[lane];
{text}}}
"""
    covers = ("st", "st.global", "st.shared", "st.volatile", "st.relaxed", "st.release")
    args = (In("in"), Out("out", "uint8", (region, 2048)))
    return Program(
        "memory/stores", "loads and stores", covers, source, args, {"in": random_bytes("stores", 256).view("u8")}
    )


def _special() -> Program:
    """Special registers of a three-dimensional launch (PTX ISA 10)."""
    names = ["%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y",
             "%nctaid.z", "%laneid", "%warpid", "%nwarpid", "%lanemask_eq", "%lanemask_le", "%lanemask_lt", "%lanemask_ge",
             "%lanemask_gt", "%clusterid.x", "%clusterid.y", "%clusterid.z", "%nclusterid.x", "%nclusterid.y", "%nclusterid.z",
             "%cluster_ctaid.x", "%cluster_ctaid.y", "%cluster_ctaid.z", "%cluster_nctaid.x", "%cluster_nctaid.y",
             "%cluster_nctaid.z", "%cluster_ctarank", "%cluster_nctarank", "%total_smem_size", "%dynamic_smem_size"]  # fmt: skip
    names.remove("%nwarpid")  # a property of the chip, not of the launch
    names.remove("%warpid")  # may differ from run to run, and did
    names.remove("%total_smem_size")  # includes what the driver reserves
    text = ""
    for i, name in enumerate(names):
        text += f'    asm volatile("mov.u32 %0, %{name};" : "=r"(d)); out[({i} * 8 + cta) * 48 + t] = d;\n'
    text += (
        '    { u32 e; asm volatile("{ .reg .pred p; mov.pred p, %%is_explicit_cluster; selp.u32 %0, 1, 0, p; }" : "=r"(e)); '
        f"out[({len(names)} * 8 + cta) * 48 + t] = e; }}\n"
    )
    source = f"""{PRELUDE}
extern "C" __global__ void kernel(u32* out) {{
    u32 d;
    u32 cta = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    u32 t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
{text}}}
"""
    args = (Out("out", "uint32", (len(names) + 1, 8, 48)),)
    return Program(
        "memory/special registers", "special registers", tuple(n.partition(".")[0] for n in names), source, args,
        grid=(2, 2, 2), block=(6, 4, 2), cluster=(2, 1, 2), shared_bytes=1024,
    )  # fmt: skip


def programs() -> list[Program]:
    return [_loads(), _stores(), _special()]

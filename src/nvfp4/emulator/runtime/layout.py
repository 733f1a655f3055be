"""Structs and constants shared by the native runtime, the compiled kernels and the Python host. One definition per
fact."""

from __future__ import annotations

from enum import IntEnum

from ..native.types import struct

__all__ = [
    "BARRIER",
    "BUFFER",
    "CELL",
    "CONTEXT",
    "CTA",
    "FAULT",
    "GCELL",
    "LOCAL_BASE",
    "MBARRIER",
    "NONE",
    "PAGE_BITS",
    "PIPES",
    "QUEUE",
    "SHARED_BASE",
    "SHARED_RESERVED",
    "SYNC_LOCAL",
    "SYNC_OBJECTS",
    "TRACE",
    "VA_BASE",
    "WARP",
    "Atom",
    "Check",
    "Counter",
    "Fault",
    "Space",
    "State",
    "Status",
]

# Generic addresses. Windows have zero low halves, so that code which truncates a generic shared address still works.
SHARED_BASE = 0x0100_0000_0000_0000
LOCAL_BASE = 0x0200_0000_0000_0000
VA_BASE = 0x0000_7000_0000_0000
PAGE_BITS = 16
# The driver keeps the first kilobyte of shared memory on sm_90 and later; address 0 is therefore never a variable.
SHARED_RESERVED = 1024
NONE = 0xFFFFFFFF
# Clock components of a warp beside its own: cp.async, wgmma, bulk groups, tcgen05.mma/cp, tcgen05.ld, tcgen05.st (see
# clocks.py).
PIPES = 6
# Global locations used for synchronisation hash to this many vectors of cluster clocks (collisions only hide races).
SYNC_OBJECTS = 256
SYNC_LOCAL = 16


class Space(IntEnum):
    """Where an access says that it goes."""

    GENERIC = 0
    GLOBAL = 1
    SHARED = 2
    SHARED_CLUSTER = 3
    LOCAL = 4
    CONST = 5


class State(IntEnum):
    """Scheduling state of a warp."""

    RUN = 0
    BLOCKED = 1
    DONE = 2


class Status(IntEnum):
    """Why native code came back to the host, and (negative) what a basic block returns instead of the next block."""

    EXITED = 0
    ALL_BLOCKED = 1
    BUDGET = 2
    HOST = 3
    FATAL = 4
    EVENT = 5
    MOVED = -1
    RETRY = -2
    PARK = -3


class Check(IntEnum):
    """Bits of ``Context.checks``."""

    INIT = 1
    RACES = 2
    COUNT = 4
    TRACE = 8
    PROXY = 16
    SPURIOUS = 32
    STRICT = 64
    LANES = 128


class Counter(IntEnum):
    """Indices into ``Context.counters``."""

    GLOBAL_LOAD_BYTES = 0
    GLOBAL_STORE_BYTES = 1
    SHARED_LOAD_BYTES = 2
    SHARED_STORE_BYTES = 3
    LOCAL_BYTES = 4
    GLOBAL_REQUESTS = 5
    GLOBAL_SECTORS = 6
    SHARED_REQUESTS = 7
    SHARED_WAVEFRONTS = 8
    ATOMICS = 9
    BARRIER_WAITS = 10
    MBARRIER_WAITS = 11
    MBARRIER_ARRIVES = 12
    MMA_FLOPS = 13
    ASYNC_COPY_BYTES = 14
    BLOCKED = 15
    DIVERGENT = 16


class Fault(IntEnum):
    """What native code found wrong. See checks/messages.py for the words."""

    OUT_OF_BOUNDS = 1
    MISALIGNED = 2
    UNINITIALISED_REGISTER = 3
    UNINITIALISED_SHARED = 4
    RACE_READ_AFTER_WRITE = 5
    RACE_WRITE_AFTER_WRITE = 6
    RACE_WRITE_AFTER_READ = 7
    PARTIAL_ALIGNED = 8
    READ_ONLY = 9
    NOT_AN_MBARRIER = 10
    MBARRIER_OVERFLOW = 11
    BAD_BARRIER = 12
    TRAP = 13
    REMOTE_EXITED = 14
    MBARRIER_OVERWRITTEN = 15
    JOIN_OVERFLOW = 16
    PROXY_FENCE = 17
    BARRIER_MISMATCH = 18
    UNINITIALISED_GLOBAL = 19
    REGISTER_IN_FLIGHT = 20
    MBARRIER_REINIT = 21
    REMOTE_AS_OWN = 22
    CLUSTER_BARRIER = 23
    UNINITIALISED_LOCAL = 24
    GLOBAL_RACE = 25
    MBARRIER_UNORDERED = 26
    TCGEN05_FENCE = 27
    LANE_RACE = 28
    GLOBAL_PROXY_FENCE = 29


class Atom(IntEnum):
    """Operations of atom and red."""

    ADD = 0
    MIN = 1
    MAX = 2
    INC = 3
    DEC = 4
    AND = 5
    OR = 6
    XOR = 7
    EXCH = 8
    CAS = 9


FAULT = struct(
    "Fault_",
    """
    kind: u32
    instruction: u32
    cta: u32
    warp: u32
    lane: u32
    other: u32          # instruction of the conflicting access, plus one
    a: u64
    b: u64
    c: u64
    d: u64
    count: u64
    """,
)
BUFFER = struct(
    "Buffer",
    """
    va: u64
    size: u64
    host: u64
    cells: u64          # GCell per 4 bytes, or 0
    init: u64           # a byte per byte of the buffer, or 0 when it counts as initialised
    flags: u32          # 1 read-only, 2 has been written in this launch
    space: u32
    written: u64        # bytes stored
    """,
)
CELL = struct(
    "Cell",  # shadow of one 4-byte word of shared memory
    """
    # Two 64-bit words that the quick paths of memory.py handle whole: the last write, and a reader.
    wclock: u32
    wactor: u16
    wmask: u8           # bytes of the last write
    init: u8            # bytes ever written
    rclock: u32
    ractor: u16
    rmask: u8
    # 1 the last write came through the async proxy, 2 word of a live mbarrier, 4 atomic, 8 a row of Cta.readers holds
    # further readers, 16 so do ractor2 and rclock2
    flags: u8
    winstr: u32
    rinstr: u32
    wlane: u8           # the lane, 255 when several lanes wrote different bytes since the warp last synchronised
    rlane: u8           # the lane, 254 when several read the whole word, 255 when several read parts of it
    ractor2: u16
    rclock2: u32
    """,
)
GCELL = struct(
    "GCell",  # shadow of one 4-byte word of global memory
    """
    wclock: u32
    wactor: u16
    wmask: u8
    flags: u8           # 1 atomic, 2 through the async proxy
    cluster: u32        # launch-wide number of the writing cluster, plus one
    gclock: u32         # that cluster's clock towards other clusters
    winstr: u32
    """,
)
MBARRIER = struct(
    "MBarrier",
    """
    address: u32
    live: u32
    expected: u32
    pending: u32
    tx: i64
    phase: u32
    tick: u32           # completed phases, never reset: the clock of its asynchronous completions
    component: u32
    instruction: u32
    acc: P[u32]         # clocks of the arrivals of this phase, then the same for the async proxy
    done: P[u32]
    """,
)
BARRIER = struct(
    "Barrier",
    """
    expected: u32
    arrived: u32
    phase: u32
    instruction: u32
    warps: u64
    reduce_and: u32
    reduce_or: u32
    reduce_count: u32
    result_and: u32
    result_or: u32
    result_count: u32
    acc: P[u32]
    done: P[u32]
    """,
)
QUEUE = struct(
    "Queued",  # one lane's cp.async in flight, or an arrival behind it
    """
    dst: u64
    src: u64
    size: u32
    copy: u32
    group: u32
    arrive: u32         # 0 a copy; 1 arrive.noinc, 2 arrive: dst is then the shared address
    """,
)
TRACE = struct(
    "Trace",
    """
    begin: u64
    end: u64
    cta: u32
    warp: u32
    address: u32
    instruction: u32
    """,
)
CTA = struct(
    "Cta",
    """
    slot: u32
    number: u32          # linear index in the grid
    x: u32
    y: u32
    z: u32
    rank: u32
    cluster_size: u32
    cluster_first: u32   # slot of the cluster's first CTA
    cluster_number: u32
    cluster_x: u32
    cluster_y: u32
    cluster_z: u32
    in_x: u32            # position in the cluster
    in_y: u32
    in_z: u32
    first_warp: u32
    warps: u32
    live_warps: u32
    shared_size: u32
    threads: u32
    components: u32
    component_base: u32
    mbarrier_count: u32
    cb_arrived: u32      # cluster barrier (in the cluster's first CTA)
    cb_phase: u32
    cb_live: u32
    shared: u64
    cells: P[Cell]
    readers: P[u32]      # by word and warp of the CTA: clocks of readers beside the one in the cell
    mbarrier_map: P[u16]
    mbarriers: P[MBarrier]
    bars: P[Barrier]
    cb_acc: P[u32]
    cb_done: P[u32]
    # SYNC_LOCAL pairs of clock vectors: synchronisation through memory inside the cluster (first CTA)
    sync: P[u32]
    gclock: u32          # cluster's clock for other clusters (in the cluster's first CTA)
    sync_used: u32
    # Per cluster: up to which gclock its writes are known here; behind that, up to which the async proxy sees them
    known: P[u32]
    fenced: u32          # the same of this cluster's own writes and the async proxy
    """,
)
WARP = struct(
    "Warp",
    """
    registers: u64
    local: u64
    scratch: u64
    cta: P[Cta]
    vc: P[u32]
    avc: P[u32]
    tvc: P[u32]          # what tcgen05 operations are ordered after beyond vc (fence::after_thread_sync)
    rvc: P[u32]          # seen by relaxed waits only
    queue: P[Queued]
    index: u32
    id: u32
    state: u32
    pc: u32
    mask: u32
    join: u32
    retry: u32
    alive: u32
    groups: u32
    self: u32            # own clock component
    pipe: u32            # first of its PIPES components
    local_size: u32
    wait_kind: u32       # 1 named barrier, 2 mbarrier, 3 cluster barrier, 4 lanes, 5 host
    wait_address: u32
    wait_phase: u32
    wait_instr: u32
    wait_since: u64
    cluster_phase: u32
    cluster_arrived: u32
    q_head: u32
    q_tail: u32
    cp_group: u32        # the open cp.async group
    cp_done: u32
    spurious: u32
    release_fence: u32
    fence_clock: u32     # own clock at the last fence: what a relaxed arrival behind it releases
    g_pc: u32[32]
    g_mask: u32[32]
    g_join: u32[32]
    g_retry: u32[32]
    g_blocked: u32[32]
    j_used: u32[32]
    j_pc: u32[32]
    j_expect: u32[32]
    j_arrived: u32[32]
    j_parent: u32[32]
    bar_phase: u32[16]
    bar_lanes: u32[16]
    tid_x: u32[32]
    tid_y: u32[32]
    tid_z: u32[32]
    """,
)
CONTEXT = struct(
    "Context",
    """
    fault_count: u32
    fault_capacity: u32
    fatal: u32
    checks: u32
    faults: P[Fault_]
    pages: P[u32]
    page_count: u64
    buffers: P[Buffer]
    warps: P[Warp]
    ctas: P[Cta]
    blocks: P[u64]
    block_steps: P[u32]
    block_hits: P[u64]
    block_lanes: P[u64]
    steps: u64
    event_at: u64
    rng: u64
    progress: u64
    host_warp: u32
    pad: u32
    trace: P[Trace]
    trace_count: u32
    trace_capacity: u32
    queue_capacity: u32
    max_mbarriers: u32
    ntid_x: u32
    ntid_y: u32
    ntid_z: u32
    nctaid_x: u32
    nctaid_y: u32
    nctaid_z: u32
    ncluster_x: u32
    ncluster_y: u32
    ncluster_z: u32
    ncta_x: u32          # CTAs per cluster
    ncta_y: u32
    ncta_z: u32
    warp_count: u32
    sm_count: u32
    dynamic_smem: u32
    total_smem: u32
    explicit_cluster: u32
    shared_window: u32
    param: u64
    constants: u64
    clock: u64
    sync: P[u32]         # SYNC_OBJECTS vectors of cluster clocks, or 0 when no kernel code synchronises through memory
    cluster_count: u64
    counters: u64[32]
    """,
)

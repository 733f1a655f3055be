"""The fifth-generation tensor core: one place to import its parts from (PTX ISA 9.7.16)."""

from nvfp4.emulator.units.instruction import Instruction, parse_instruction, scales_of
from nvfp4.emulator.units.tcgen05_cp import CpPlan, plan_cp
from nvfp4.emulator.units.tcgen05_mma import MmaOp, MmaPlan, plan_mma
from nvfp4.emulator.units.tmem import (
    COLUMNS,
    LANES,
    LdPlan,
    ShiftPlan,
    StPlan,
    TensorMemory,
    fragment,
    plan_ld,
    plan_shift,
    plan_st,
    registers,
    split_address,
)

__all__ = [
    "COLUMNS",
    "LANES",
    "CpPlan",
    "Instruction",
    "LdPlan",
    "MmaOp",
    "MmaPlan",
    "ShiftPlan",
    "StPlan",
    "TensorMemory",
    "fragment",
    "parse_instruction",
    "plan_cp",
    "plan_ld",
    "plan_mma",
    "plan_shift",
    "plan_st",
    "registers",
    "scales_of",
    "split_address",
]

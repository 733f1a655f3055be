"""A PTX emulator: runs compiled GPU kernels on a CPU, and looks over their shoulder. Imports nothing else of nvfp4.

    module = Module(ptx_text)
    report = module.launch("kernel", grid=64, block=192, cluster=2, shared_bytes=200_000, args=[a, b, out, 7168,
    TensorMap(...)])

See docs/emulator.md.
"""

from .checks.policy import Checks
from .errors import EmulatorError, KernelFault, LaunchError, PtxSyntaxError, UnsupportedPtx
from .memory import Output
from .module import Module
from .report import Finding, Report
from .units.tensormap import TensorMap

__all__ = [
    "Checks",
    "EmulatorError",
    "Finding",
    "KernelFault",
    "LaunchError",
    "Module",
    "Output",
    "PtxSyntaxError",
    "Report",
    "TensorMap",
    "UnsupportedPtx",
]

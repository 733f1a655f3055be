"""PTX kernels to native code: control flow, then LLVM IR basic block by basic block."""

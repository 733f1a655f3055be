"""Native code without a C compiler: a small typed subset of Python compiled by LLVM, and the JIT around it."""

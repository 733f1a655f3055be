"""The native runtime: memory with shadow state, barriers, divergence, the warp scheduler."""

"""A PTX emulator: runs compiled GPU kernels on a CPU. Imports nothing else of nvfp4."""

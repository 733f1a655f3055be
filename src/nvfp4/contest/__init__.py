"""The GPU MODE NVFP4 contest: its tasks as data, its inputs."""

"""Programs by instruction class, what an NVIDIA GPU answered to them, and the means to record and to compare."""

"""Is it right? Inputs that break kernels, an exact oracle, bounds, poisoned outputs, and a diagnosis of the fault."""

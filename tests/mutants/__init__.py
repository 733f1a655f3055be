"""Small kernels that are sound, and their broken twins: one fence, wait, phase, descriptor bit or index is wrong in
each."""

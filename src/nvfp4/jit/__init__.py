"""CUDA sources to PTX or cubins with NVRTC, kept in a content-addressed cache."""

from nvfp4.jit.artifact import Artifact, Resources
from nvfp4.jit.compiler import compile

__all__ = ["Artifact", "Resources", "compile"]

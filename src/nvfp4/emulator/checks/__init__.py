"""What the emulator looks for, and the words in which it says so."""

from .policy import Checks

__all__ = ["Checks"]

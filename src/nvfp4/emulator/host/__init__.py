"""Operations that the host carries out between two basic blocks: copies, matrix units, tensor memory, printf."""

from .registry import HANDLERS, supports

__all__ = ["HANDLERS", "supports"]

"""The CUDA 12 backend of darwin_neg_cpp, which loads LIBRARY where BUILD is that of its own build."""

from pathlib import Path

from .built import BUILD, LIBRARY_NAME

__all__ = ["BUILD", "LIBRARY"]

LIBRARY = Path(__file__).with_name(LIBRARY_NAME)

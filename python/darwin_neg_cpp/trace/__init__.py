"""Traces: what a NEG head predicted along a text, beside what was true, as values and as a web page."""

from .agreement import Agreement
from .page import render_page
from .trace import Trace, TraceToken, trace_generation, trace_text

__all__ = ["Agreement", "Trace", "TraceToken", "render_page", "trace_generation", "trace_text"]

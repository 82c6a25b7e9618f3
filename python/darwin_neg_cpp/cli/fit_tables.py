"""`darwin-neg info --fit` for people: tables of what fits in a memory."""

from __future__ import annotations

from collections.abc import Sequence

from ..convert.fit import Context, Fit, Memory, Model, Proposal, Report
from ..files.input_file import shown
from .terminal import aligned


def describe_fit(report: Report) -> str:
    """Formats the report: of one memory with all sizes, of several with what fits in each."""
    if len(report.memory) == 1:
        return _one(report.model, report.memory[0])
    return _several(report.model, report.memory)


def _one(model: Model, memory: Memory) -> str:
    shortest, n = model.contexts[0], model.n_layers
    rows = [
        ["type", "file", f"GPU, {n} layers", "longest context", f"layers at {shortest.n_ctx:,}", "without a GPU"],
        *(_sizes(fit, n) for fit in memory.fits),
    ]
    facts = [
        ("memory", f"{_both(memory.size)}, of which {_gb(memory.reserved)} are left to drivers and other programs"),
        *_model_facts(model),
        ("with a GPU", _proposal(memory.gpu, model)),
        ("without", _proposal(memory.cpu, model)),
    ]
    return "\n".join([aligned(facts), "", _table(rows), *_notes(memory.fits)])


def _sizes(fit: Fit, n_layers: int) -> list[str]:
    longest = f"{fit.n_ctx:,}" if fit.n_ctx else "-"
    layers = "all" if fit.n_gpu_layers == n_layers else f"{fit.n_gpu_layers} of {n_layers}"
    return [_type(fit), _gb(fit.file), _gb(fit.all_layers), longest, layers, _gb(fit.without_gpu)]


def _several(model: Model, memories: Sequence[Memory]) -> str:
    n = model.n_layers
    rows = [["type", "file", *(_short(memory.size) for memory in memories)]]
    for i, fit in enumerate(memories[0].fits):
        rows.append([_type(fit), _gb(fit.file), *(_cell(memory.fits[i]) for memory in memories)])
    facts = [
        *_model_facts(model),
        *((_short(memory.size), _proposal(memory.gpu, model)) for memory in memories),
        *((f"{_short(memory.size)}, no GPU", _proposal(memory.cpu, model)) for memory in memories),
    ]
    legend = [
        f"A number of tokens: all {n} layers fit, with a context of at most that many.",
        f"A number of layers: that many of {n} fit, with {model.contexts[0].n_ctx:,} tokens.",
    ]
    return "\n".join([aligned(facts), "", _table(rows), "", *legend, *_notes(memories[0].fits)])


def _cell(fit: Fit) -> str:
    if fit.n_ctx:
        return f"{fit.n_ctx:,}"
    return f"{fit.n_gpu_layers} layer{'' if fit.n_gpu_layers == 1 else 's'}" if fit.n_gpu_layers else "-"


def _model_facts(model: Model) -> list[tuple[str, str]]:
    count = f"{model.n_params / 1e9:.2f} B" if model.n_params >= 1e8 else f"{model.n_params:,}"
    shortest = model.contexts[0]
    facts = [
        ("model", f"{shown(model.name)} ({model.architecture}), {count} parameters, {model.type.upper()}"),
        ("context", f"KV cache {_gb(shortest.kv_cache)} at {shortest.n_ctx:,} tokens" + _longest(model.contexts)),
    ]
    if shortest.recurrent:
        facts.append(
            (
                "states",
                f"{_gb(shortest.recurrent)} with --n-parallel {model.n_parallel}, whatever the context",
            )
        )
    facts.append(("compute", f"about {_gb(shortest.compute)}: an estimate, made for the CPU's graph"))
    return facts


def _longest(contexts: Sequence[Context]) -> str:
    return f", {_gb(contexts[-1].kv_cache)} at {contexts[-1].n_ctx:,}" if len(contexts) > 1 else ""


def _proposal(proposal: Proposal | None, model: Model) -> str:
    n_layers = model.n_layers
    if proposal is None:
        fewer = model.n_parallel > 1 and model.contexts[0].recurrent
        return "too little memory" + ("; --n-parallel 1 takes less" if fewer else "")
    parts = [f"{proposal.type.upper()} (file {_gb(proposal.file)})", f"-c {proposal.n_ctx}"]
    if proposal.n_gpu_layers is not None:
        every = proposal.n_gpu_layers == n_layers
        parts.append("-ngl -1" if every else f"-ngl {proposal.n_gpu_layers} (of {n_layers}; the others on the CPU)")
    return f"{', '.join(parts)}; takes {_gb(proposal.on_device)}"


def _notes(fits: Sequence[Fit]) -> list[str]:
    matrix = ["* can only be made with an importance matrix."] if any(fit.needs_imatrix for fit in fits) else []
    return ["", *matrix, "1 GB is 1,000,000,000 bytes and 1 GiB is 1,073,741,824; a card sold as 8 GB has 8 GiB."]


def _type(fit: Fit) -> str:
    return fit.type.upper() + ("*" if fit.needs_imatrix else "")


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**7 else f"{size / 1e6:.2f} MB"


def _both(size: int) -> str:
    return f"{size / 1e9:.2f} GB ({size / (1 << 30):.2f} GiB)"


def _short(size: int) -> str:
    """In the unit that takes fewer digits: 8 GB, 8 GiB."""
    in_gb, in_gib = f"{size / 1e9:.6g} GB", f"{size / (1 << 30):.6g} GiB"
    return in_gib if len(in_gib) - 1 < len(in_gb) else in_gb

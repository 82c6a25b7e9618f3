"""SmolLM2-135M-Instruct as a second architecture: llama, tied output, Q4_1, real text.

The quantized kernels of ggml quantize activations too, so the Q4_1 file itself cannot be compared with PyTorch to 1e-3.
The same weights dequantised to F32 can: `dequantized` writes that file, `torch_model` loads the original into
transformers (which dequantises).
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM


def dequantized(source: Path, out: Path) -> None:
    """Copies a GGUF with every tensor turned into F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in (
            "general.architecture",
            "general.file_type",
            "general.quantization_version",
        ):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def torch_model(source: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()

"""Writes a random Qwen3.5 model of the 0.8B shape as Q4_K_M, for speed measurements.

    python benchmarks/random_qwen35.py OUT.gguf

24 layers, hidden size 1024, vocabulary 248,320, tied embeddings. Needs the dependency group `test` (torch,
transformers); unpatched llama.cpp converts and quantizes. Takes about 5 GB of disk while it runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oracles import stock  # noqa: E402
from oracles.qwen_tokenizer import write_tokenizer  # noqa: E402

LAYERS = 24


def config() -> Qwen3_5TextConfig:
    return Qwen3_5TextConfig(
        hidden_size=1024,
        intermediate_size=3584,
        num_hidden_layers=LAYERS,
        layer_types=["full_attention" if i % 4 == 3 else "linear_attention" for i in range(LAYERS)],
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=256,
        linear_num_key_heads=16,
        linear_num_value_heads=16,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        vocab_size=248_320,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000_000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
        eos_token_id=151645,
        bos_token_id=151643,
    )


def main() -> None:
    out = Path(sys.argv[1])
    command = [sys.executable, str(ROOT / "cmake" / "llama_source.py"), "--pristine", "--with-tests"]
    tree = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    with tempfile.TemporaryDirectory(dir=out.resolve().parent) as temp:
        folder = Path(temp) / "checkpoint"
        torch.manual_seed(0)
        model = Qwen3_5ForCausalLM._from_config(config(), dtype=torch.bfloat16)
        model.save_pretrained(folder)
        write_tokenizer(tree / "models" / "ggml-vocab-qwen35.gguf", folder, "")
        convert = [sys.executable, str(tree / "convert_hf_to_gguf.py"), str(folder), "--no-mtp", "--outtype", "f16"]
        subprocess.run([*convert, "--outfile", str(Path(temp) / "f16.gguf")], check=True, capture_output=True)
        subprocess.run(
            [stock.binaries()["llama-quantize"], str(Path(temp) / "f16.gguf"), str(out), "Q4_K_M"],
            check=True,
            capture_output=True,
        )
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

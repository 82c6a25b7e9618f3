"""Writes a random Qwen3.5 model of the 0.8B shape as Q4_K_M, for speed measurements.

    python benchmarks/random_qwen35.py OUT.gguf [--mtp]

With --mtp it has a multi-token-prediction block whose guesses are good: the layers add nothing to the embedding of the
newest token, which the block sees too, so that both give the same logits. How often a sampled token is the one that was
guessed is then a matter of the temperature, and all matrices are multiplied all the same.

24 layers, hidden size 1024, vocabulary 248,320, tied embeddings. Needs the dependency group `test` (torch,
transformers); unpatched llama.cpp converts and quantizes. Takes about 5 GB of disk while it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
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


def add_mtp_block(folder: Path) -> None:
    """Silences the layers of a checkpoint and gives it a block that guesses what it will say."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, values in tensors.items():
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            values.zero_()
    attention = f"model.layers.{LAYERS - 1}."
    tensors |= {
        name.replace(attention, "mtp.layers.0."): values.clone()
        for name, values in tensors.items()
        if name.startswith(attention)
    }
    size = config().hidden_size
    square = torch.eye(size, dtype=torch.bfloat16)
    tensors["mtp.fc.weight"] = torch.cat([square, torch.zeros_like(square)], dim=1)  # embedding, hidden state
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        tensors[f"mtp.{name}.weight"] = torch.zeros(size, dtype=torch.bfloat16)  # 1 is added to it
    save_file(tensors, file, metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"mtp_num_hidden_layers": 1}), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mtp", action="store_true")
    args = parser.parse_args()
    out = args.out
    command = [sys.executable, str(ROOT / "cmake" / "llama_source.py"), "--pristine", "--with-tests"]
    tree = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    with tempfile.TemporaryDirectory(dir=out.resolve().parent) as temp:
        folder = Path(temp) / "checkpoint"
        torch.manual_seed(0)
        model = Qwen3_5ForCausalLM._from_config(config(), dtype=torch.bfloat16)
        model.save_pretrained(folder)
        if args.mtp:
            add_mtp_block(folder)
        write_tokenizer(tree / "models" / "ggml-vocab-qwen35.gguf", folder, "")
        convert = [sys.executable, str(tree / "convert_hf_to_gguf.py"), str(folder), "--outtype", "f16"]
        convert += ["--outfile", str(Path(temp) / "f16.gguf"), *([] if args.mtp else ["--no-mtp"])]
        subprocess.run(convert, check=True, capture_output=True)
        subprocess.run(
            [stock.binaries()["llama-quantize"], str(Path(temp) / "f16.gguf"), str(out), "Q4_K_M"],
            check=True,
            capture_output=True,
        )
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

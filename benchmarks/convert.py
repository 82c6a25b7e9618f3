"""Compares conversion with llama.cpp's own converter of the same pin and with `cp`: time and peak memory.

    python benchmarks/convert.py [--shapes 0.8B,2x,9B] [--outtype bf16] [--rounds N] [--ours-only]

Random BF16 checkpoints of the family's shapes are written to a temporary folder under --dir. Every run is a process of
its own; `time` is from its start to its end, whether or not the system has written the file to the disk by then (ours
syncs, reads back and compares; --no-verify is a row of its own). Needs the dependency group `test`: llama.cpp's
converter runs on torch and transformers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oracles.qwen_tokenizer import write_tokenizer  # noqa: E402

VOCAB = 248_320
SHARD = 5 << 30
SHAPES = {
    "small": {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 256},  # to try the script with
    "0.8B": {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 3584},
    "2x": {"num_hidden_layers": 60, "hidden_size": 1024, "intermediate_size": 3584},
    "9B": {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 16,
        "num_key_value_heads": 4, "linear_num_value_heads": 32, "tie_word_embeddings": False,
    },
}  # fmt: skip


def configuration(name: str) -> dict[str, object]:
    shape = {
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 16,
        "linear_num_value_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "vocab_size": VOCAB, "max_position_embeddings": 32_768, "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        "mtp_num_hidden_layers": 0, "eos_token_id": 151645, "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10], "mrope_interleaved": True,
        },
        **SHAPES[name],
    }  # fmt: skip
    return shape | {
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
        * (shape["num_hidden_layers"] // 4)
    }  # type: ignore[operator]


def tensors(c: dict[str, object]) -> Iterator[tuple[str, tuple[int, ...]]]:
    size = {key: value for key, value in c.items() if isinstance(value, int)}
    h, ff = size["hidden_size"], size["intermediate_size"]
    values = size["linear_num_value_heads"] * size["linear_value_head_dim"]
    keys = 2 * size["linear_num_key_heads"] * size["linear_key_head_dim"]
    attention = size["num_attention_heads"] * size["head_dim"]
    kv = size["num_key_value_heads"] * size["head_dim"]
    yield "model.embed_tokens.weight", (VOCAB, h)
    for i in range(size["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        yield p + "post_attention_layernorm.weight", (h,)
        if i % 4 != 3:
            a = p + "linear_attn."
            yield a + "in_proj_qkv.weight", (keys + values, h)
            yield a + "in_proj_z.weight", (values, h)
            yield a + "in_proj_b.weight", (size["linear_num_value_heads"], h)
            yield a + "in_proj_a.weight", (size["linear_num_value_heads"], h)
            yield a + "conv1d.weight", (keys + values, 1, 4)
            yield a + "A_log", (size["linear_num_value_heads"],)
            yield a + "dt_bias", (size["linear_num_value_heads"],)
            yield a + "norm.weight", (size["linear_value_head_dim"],)
            yield a + "out_proj.weight", (h, values)
        else:
            a = p + "self_attn."
            yield a + "q_proj.weight", (2 * attention, h)
            yield a + "k_proj.weight", (kv, h)
            yield a + "v_proj.weight", (kv, h)
            yield a + "o_proj.weight", (h, attention)
            yield a + "q_norm.weight", (size["head_dim"],)
            yield a + "k_norm.weight", (size["head_dim"],)
        yield p + "mlp.gate_proj.weight", (ff, h)
        yield p + "mlp.up_proj.weight", (ff, h)
        yield p + "mlp.down_proj.weight", (h, ff)
    yield "model.norm.weight", (h,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCAB, h)


def write_checkpoint(folder: Path, name: str) -> int:
    """Writes the checkpoint and returns its size; the values are random bits of reasonable BF16 numbers, repeated."""
    folder.mkdir()
    c = configuration(name)
    (folder / "config.json").write_text(json.dumps(c), "utf-8")
    noise = (np.random.default_rng(0).normal(0, 0.02, 1 << 24).astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = total = 0
    for entry in tensors(c):
        size = 2 * int(np.prod(entry[1]))
        if shards[-1] and filled + size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += size
        total += size
    index = {}
    for i, entries in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        header, at = {}, 0
        for tensor, shape in entries:
            size = 2 * int(np.prod(shape))
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
            index[tensor] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for _, shape in entries:
                left = int(np.prod(shape))
                while left:
                    out.write(noise[: min(left, noise.size)].tobytes())
                    left -= min(left, noise.size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")
    return total


# A process of its own that is small when it forks: the peak memory of a child counts from the fork on.
LAUNCHER = """
import os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - begin, usage.ru_maxrss / 1024, status)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """(seconds, peak memory in MB) of a process."""
    launch = [sys.executable, "-S", "-E", "-c", LAUNCHER, *command]
    result = subprocess.run(launch, capture_output=True, text=True, check=True)
    seconds, memory, status = result.stdout.split()
    if status != "0":
        raise RuntimeError(result.stderr[-2000:])
    return float(seconds), float(memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default="0.8B,2x")
    parser.add_argument("--outtype", default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--dir", type=Path, help="where to write (default: the system's temporary folder)")
    args = parser.parse_args()
    source = [sys.executable, str(ROOT / "cmake" / "llama_source.py"), "--pristine", "--with-tests"]
    tree = Path(subprocess.run(source, capture_output=True, text=True, check=True).stdout.strip())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {datetime.date.today()}, {args.rounds} rounds, {args.outtype}"
    )
    for name in args.shapes.split(","):
        with tempfile.TemporaryDirectory(dir=args.dir) as temp:
            folder, out = Path(temp) / "checkpoint", Path(temp) / "out.gguf"
            size = write_checkpoint(folder, name)
            write_tokenizer(tree / "models" / "ggml-vocab-qwen35.gguf", folder, "{{ messages }}")
            ours = [sys.executable, str(ROOT / "convert" / "convert_to_gguf.py"), str(folder), "--no-head", "--no-mtp"]
            ours += ["--outtype", args.outtype, "-o", str(out)]
            theirs = [sys.executable, str(tree / "convert_hf_to_gguf.py"), str(folder), "--no-mtp"]
            theirs += ["--outtype", args.outtype, "--outfile", str(out)]
            rows = {"ours": ours, "ours, --no-verify": [*ours, "--no-verify"]}
            if not args.ours_only:
                shards = sorted(map(str, folder.glob("*.safetensors")))
                rows = {
                    "llama.cpp": theirs,
                    **rows,
                    "cp and sync": ["sh", "-c", f"cat {' '.join(shards)} > {out} && sync {out}"],
                }
            found: dict[str, list[tuple[float, float]]] = {}
            for _ in range(args.rounds):
                for row, command in rows.items():
                    found.setdefault(row, []).append(measure(command))
                    out.unlink()
            reference = statistics.median(seconds for seconds, _ in next(iter(found.values())))
            print(f"{name}: {size / 1e9:.2f} GB")
            for row, values in found.items():
                seconds = statistics.median(value[0] for value in values)
                memory = max(value[1] for value in values)
                spread = " ".join(f"{value[0]:.1f}" for value in values)
                print(
                    f"  {row:<18} {seconds:6.1f} s ({spread})  {reference / seconds:5.2f}x  peak {memory:5.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()

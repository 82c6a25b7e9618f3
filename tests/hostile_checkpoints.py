"""A table of bad checkpoints: one row a kind, each in five variants.

`spoil(folder, i)` damages a good checkpoint in `folder` (two shards, index, tokenizer, NEG head) as variant i, 0 to 4.
It may return further arguments for the command line. The error message contains `words`; where one of them is a tuple
of five, each variant has its own. It also contains what `tensor(folder, i)` returned before the damage and, where
`in_shard` is set, the name of that tensor's shard.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Spoil = Callable[[Path, int], "list[str] | None"]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
NEG = "neg_modules.safetensors"
DEEP = 10_000


@dataclass(frozen=True)
class Kind:
    name: str
    spoil: Spoil
    words: tuple[str | tuple[str, ...], ...] = ()
    tensor: Callable[[Path, int], str] | None = None
    in_shard: bool = True


# --- tools


def shard(i: int) -> str:
    return SHARDS[i % 2]


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put(path: Path, head: bytes | dict[str, Any], data: bytes = b"") -> None:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensor_names(folder: Path, i: int) -> list[str]:
    """Names of language tensors of a shard; a different one comes first for each i."""
    names = [n for n in header(folder / shard(i))[0] if n != "__metadata__" and "visual" not in n]
    return names[3 * i :] + names[: 3 * i]


def first(folder: Path, i: int) -> str:
    """The tensor that `in_header` and `in_tensors` damage."""
    return tensor_names(folder, i)[0]


def plain(folder: Path, i: int) -> str:
    """The same without what stands around the language model."""
    return first(folder, i).replace("language_model.", "").removeprefix("model.")


def projection(folder: Path, i: int) -> str:
    """A matrix that is not square."""
    shapes = {name: entry["shape"] for name, entry in header(folder / shard(i))[0].items() if name != "__metadata__"}
    names = list(shapes)[4 * i :] + list(shapes)
    return next(name for name in names if name.endswith("_proj.weight") and shapes[name][0] != shapes[name][-1])


def in_header(change: Callable[[dict[str, Any], str, int], None]) -> Spoil:
    """Changes the header of a shard; change(header, name of a tensor, i)."""

    def spoil(folder: Path, i: int) -> None:
        head, data = header(folder / shard(i))
        change(head, tensor_names(folder, i)[0], i)
        put(folder / shard(i), head, data)

    return spoil


def in_bytes(change: Callable[[bytes, int], bytes]) -> Spoil:
    def spoil(folder: Path, i: int) -> None:
        path = folder / shard(i)
        path.write_bytes(change(path.read_bytes(), i))

    return spoil


def in_json(file: str, change: Callable[[Any, int], Any]) -> Spoil:
    """Changes a JSON file; the change works in place or returns a new value."""

    def spoil(folder: Path, i: int) -> None:
        value = json.loads((folder / file).read_text("utf-8"))
        new = change(value, i)
        (folder / file).write_text(json.dumps(value if new is None else new), "utf-8")

    return spoil


def in_text(change: Callable[[dict[str, Any], int], Any]) -> Spoil:
    return in_json("config.json", lambda config, i: change(config["text_config"], i) and None)


def replaced(file: str, contents: tuple[bytes, ...]) -> Spoil:
    return lambda folder, i: (folder / file).write_bytes(contents[i]) and None


def in_head(change: Callable[[dict[str, np.ndarray], int], Any]) -> Spoil:
    def spoil(folder: Path, i: int) -> None:
        tensors = load_file(folder / NEG)
        change(tensors, i)
        save_file(tensors, folder / NEG)

    return spoil


def in_tensors(change: Callable[[dict[str, np.ndarray], str, int], Any], *, of_projection: bool = False) -> Spoil:
    """Changes the tensors of a shard, and the index with them. BF16 is seen as its bits."""

    def spoil(folder: Path, i: int) -> None:
        head, data = header(folder / shard(i))
        meta = head.pop("__metadata__", {})
        tensors = {n: (e["dtype"], e["shape"], data[slice(*e["data_offsets"])]) for n, e in head.items()}
        arrays = {n: np.frombuffer(raw, np.uint16).reshape(shape) for n, (_, shape, raw) in tensors.items()}
        change(arrays, (projection if of_projection else first)(folder, i), i)
        out: dict[str, Any] = {"__metadata__": meta}
        blob = b""
        for name, array in arrays.items():
            raw = np.ascontiguousarray(array).tobytes()
            out[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
            blob += raw
        put(folder / shard(i), out, blob)
        index = json.loads((folder / INDEX).read_text("utf-8"))
        index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != shard(i)} | dict.fromkeys(
            arrays, shard(i)
        )
        (folder / INDEX).write_text(json.dumps(index), "utf-8")

    return spoil


def entry(key: str, values: tuple[Any, ...]) -> Spoil:
    return in_header(lambda head, name, i: head[name].update({key: values[i]}))


def drop(mapping: dict[str, Any], keys: tuple[str, ...], i: int) -> None:
    del mapping[keys[i % len(keys)]]


def sparse(size: int) -> Callable[[Path, int], None]:
    def spoil(folder: Path, i: int) -> None:
        with (folder / shard(i)).open("wb") as file:
            file.write(struct.pack("<Q", size + i))
            file.truncate(size + i + 100)

    return spoil


def both_shards(folder: Path, i: int) -> None:
    """The same tensor in both files."""
    name = tensor_names(folder, 0)[i]
    head, _ = header(folder / SHARDS[0])
    size = head[name]["data_offsets"][1] - head[name]["data_offsets"][0]
    other, more = header(folder / SHARDS[1])
    other[name] = head[name] | {"data_offsets": [len(more), len(more) + size]}
    put(folder / SHARDS[1], other, more + bytes(size))


def outside(folder: Path, i: int) -> None:
    """The index leads out of the folder."""
    target = folder.parent / "elsewhere.safetensors"
    target.write_bytes((folder / SHARDS[0]).read_bytes())
    name = (
        "../elsewhere.safetensors",
        str(target),
        "links/../../elsewhere.safetensors",
        "sub/../../elsewhere.safetensors",
        "links/x.safetensors",
    )[i]
    if i in (2, 4):
        (folder / "links").symlink_to(folder.parent)
        (folder.parent / "x.safetensors").write_bytes(target.read_bytes())
    index = json.loads((folder / INDEX).read_text("utf-8"))
    index["weight_map"] = {n: name if f == SHARDS[0] else f for n, f in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index), "utf-8")


def without_index_and_shard(folder: Path, i: int) -> None:
    (folder / INDEX).unlink()
    (folder / shard(i)).unlink()


def folder_for_shard(folder: Path, i: int) -> None:
    (folder / shard(i)).unlink()
    (folder / shard(i)).mkdir()


def pickled(folder: Path, i: int) -> None:
    for name in (*SHARDS, INDEX):
        (folder / name).unlink()
    # a pickle that would be noticed if it were loaded
    payload = b"cos\nsystem\n(S'touch " + str(folder / "pwned").encode() + b"'\ntR."
    (
        folder / ("pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00001.bin", "weights.pth", "a.bin")[i]
    ).write_bytes(payload)


def two_offsets(begin: Callable[[int, int, int], tuple[int, int]]) -> Spoil:
    """Other offsets for a tensor: begin(old begin, old end, i)."""

    def change(head: dict[str, Any], name: str, i: int) -> None:
        head[name]["data_offsets"] = list(begin(*head[name]["data_offsets"], i))

    return in_header(change)


def elsewhere(folder: Path, i: int) -> list[str]:
    """Inputs that lie outside the checkpoint, and are named as output or side-car."""
    head, matrix = folder.parent / "head.safetensors", folder.parent / "matrix.gguf"
    (folder / NEG).rename(head)
    matrix.write_bytes(b"a matrix")
    neg, quantized = ["--head", str(head), "--force"], ["--imatrix", str(matrix), "--outtype", "q4_k_m"]
    return (
        [*neg, "-o", str(head)],
        [*neg, "--side-car", str(head)],
        [*neg, *quantized, "-o", str(matrix)],
        [*neg, *quantized, "--side-car", str(matrix)],
        [*neg, "-o", str(folder / ".." / "head.safetensors")],
    )[i]


def same_output(folder: Path, i: int) -> list[str]:
    """The same file under two names."""
    there = folder.parent / "same"
    if i == 2:
        there.symlink_to(folder.parent)
    if i == 3:
        (folder.parent / "link.gguf").symlink_to(folder.parent / "a.gguf")
    one = str(folder.parent / "a.gguf")
    other = (
        one,
        str(folder / ".." / "a.gguf"),
        str(there / "a.gguf"),
        str(folder.parent / "link.gguf"),
        f"{folder}/../a.gguf",
    )[i]
    return ["-o", one, "--side-car", other]


def in_shard_head(change: Callable[[dict[str, np.ndarray], int], Any]) -> Spoil:
    """A head among the tensors of a shard instead of in its own file."""

    def spoil(folder: Path, i: int) -> None:
        tensors = load_file(folder / NEG)
        (folder / NEG).unlink()
        change(tensors, i)
        head, data = header(folder / shard(i))
        for name, array in tensors.items():
            raw = np.ascontiguousarray(array).tobytes()
            head[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        put(folder / shard(i), head, data)
        index = json.loads((folder / INDEX).read_text("utf-8"))
        index["weight_map"] |= dict.fromkeys(tensors, shard(i))
        (folder / INDEX).write_text(json.dumps(index), "utf-8")

    return spoil


def both_heads(folder: Path, i: int) -> None:
    kept = (folder / NEG).read_bytes()
    in_shard_head(lambda tensors, i: None)(folder, i)
    (folder / NEG).write_bytes(kept)


def json_value(file: str, key: str, values: tuple[Any, ...]) -> Spoil:
    return in_json(file, lambda value, i: value.update({key: values[i]}))


def without_template_file(spoil: Spoil) -> Spoil:
    """A template in a file of its own would be used instead of the one in the settings."""

    def spoil_both(folder: Path, i: int) -> None:
        (folder / "chat_template.jinja").unlink()
        spoil(folder, i)

    return spoil_both


def text_value(key: str, values: tuple[Any, ...]) -> Spoil:
    return in_text(lambda text, i: text.update({key: values[i]}))


def rope_value(key: str, values: tuple[Any, ...], **others: Any) -> Spoil:
    return in_text(lambda text, i: text["rope_parameters"].update({**others, key: values[i]}))


def in_vocabulary(change: Callable[[dict[str, Any], int], Any]) -> Spoil:
    return in_json("tokenizer.json", lambda tokenizer, i: change(tokenizer["model"]["vocab"], i) and None)


def three_mapped_to(files: tuple[Any, ...]) -> Spoil:
    """The index gives the first three tensors another file."""

    def change(index: dict[str, Any], i: int) -> None:
        index["weight_map"].update(dict.fromkeys(list(index["weight_map"])[:3], files[i]))

    return in_json(INDEX, change)


def output(name: Callable[[Path, int], str]) -> Spoil:
    return lambda folder, i: ["-o", name(folder, i), "--force"]


def layer_types(n_linear: int) -> list[str]:
    return ["linear_attention"] * n_linear + ["full_attention"] * (4 - n_linear)


def transpose(head: dict[str, np.ndarray], i: int) -> None:
    head[HEAD[0]] = np.ascontiguousarray(head[HEAD[0]].T)
    head[HEAD[3]] = head[HEAD[3]] + i


def change_width(head: dict[str, np.ndarray], i: int) -> None:
    """Hidden sizes that are not the model's 64."""
    head[HEAD[0]] = np.ones((head[HEAD[0]].shape[0], (8, 16, 32, 96, 128)[i]), np.float32)


def put_not_finite(head: dict[str, np.ndarray], i: int) -> None:
    head[HEAD[i % 4]].reshape(-1)[0] = (np.nan, np.inf, -np.inf, np.nan, np.inf)[i]


NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
NEEDED_LINEAR = (
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
)
NO_SIZES = ("many", -1, 0, 2.5, True)
SIZES = ("num_attention_heads", "num_key_value_heads", "head_dim", "linear_key_head_dim", "intermediate_size")
STRAY = (
    "extra",
    "model.layers.9.x",
    "model.language_model.layers.4.mlp.up_proj.weight",
    "lm_head.bias",
    "mtp.layers.7.x",
)
HEAD = ("head.proj_down.weight", "head.proj_down.bias", "head.proj_out.weight", "head.proj_out.bias", "gate.threshold")

KINDS = [
    # shards
    Kind("empty shard", in_bytes(lambda b, i: b""), ("safetensors", "empty")),
    Kind("shard shorter than its length", in_bytes(lambda b, i: b[: i + 1]), ("safetensors", "short")),
    Kind(
        "header longer than the file",
        in_bytes(lambda b, i: struct.pack("<Q", len(b) + 10**i) + b[8:]),
        ("header claims",),
    ),
    Kind("header of more than 100 MB", sparse(100_000_001), ("header claims",)),
    Kind("header of 2^63 bytes", in_bytes(lambda b, i: struct.pack("<Q", (1 << 63) + i) + b[8:]), ("header claims",)),
    Kind("header not JSON", in_bytes(lambda b, i: b[:8] + b"}]],:"[i : i + 1] + b[9:]), ("JSON",)),
    Kind("header not UTF-8", in_bytes(lambda b, i: b[: 9 + i] + b"\xff" + b[10 + i :]), ("JSON",)),
    Kind(
        "header not an object",
        lambda folder, i: put(folder / shard(i), (b"[]", b"7", b'"a"', b"null", b"[{}]")[i]),
        ("not a JSON object",),
    ),
    Kind(
        "key twice in a header",
        lambda folder, i: put(folder / shard(i), b'{"a%d": {}, "a%d": {}}' % (i, i)),
        ("twice",),
    ),
    Kind(
        "header nested deeply",
        lambda folder, i: put(folder / shard(i), (b'{"a":' if i % 2 else b"[") * DEEP * (i + 1)),
        ("JSON",),
    ),
    Kind(
        "entry no object", in_header(lambda h, n, i: h.update({n: (7, "x", None, [], True)[i]})), ("malformed",), first
    ),
    Kind(
        "entry incomplete",
        in_header(lambda h, n, i: drop(h[n], ("dtype", "shape", "data_offsets"), i)),
        ("malformed",),
        first,
    ),
    Kind(
        "offsets not two numbers",
        entry("data_offsets", ([0], [0, 1, 2], "01", [0.0, 8.0], [None, 1])),
        ("malformed",),
        first,
    ),
    Kind("unknown type", entry("dtype", ("F31", "bf16", "", "FLOAT", "C64")), ("unknown type",), first),
    Kind("type not a name", entry("dtype", (5, None, ["BF16"], {}, True)), ("malformed",), first),
    Kind("integers for weights", entry("dtype", ("I16", "U16", "I16", "U16", "I16")), ("expected F32",), first),
    Kind(
        "negative shape", in_header(lambda h, n, i: h[n].update(shape=[-s for s in h[n]["shape"]])), ("shape",), first
    ),
    Kind(
        "fractional shape",
        in_header(lambda h, n, i: h[n].update(shape=[s + 0.5 for s in h[n]["shape"]])),
        ("malformed",),
        first,
    ),
    Kind(
        "huge shape",
        entry("shape", ([1 << 63], [1 << 64, 2], [1 << 32], [1 << 40, 1 << 40], [10**30])),
        ("impossible shape",),
        first,
    ),
    Kind(
        "overflowing shape",
        entry("shape", ([1 << 31, 1 << 31], [(1 << 32) - 1] * 2, [1 << 31] * 3, [65536] * 4, [1 << 31] * 8)),
        ("offsets",),
        first,
    ),
    Kind("too many dimensions", in_header(lambda h, n, i: h[n].update(shape=[1] * (9 + 100 * i))), ("shape",), first),
    Kind("offsets reversed", two_offsets(lambda a, b, i: (b, a)), ("offsets",), first),
    Kind(
        "offsets past the end",
        two_offsets(lambda a, b, i: (a + (1 << (20 + i)), b + (1 << (20 + i)))),
        ("offsets",),
        first,
    ),
    Kind("offsets negative", two_offsets(lambda a, b, i: (a - b - i, -i)), ("offsets",), first),
    Kind(
        "offsets overlapping",
        two_offsets(lambda a, b, i: (a - 2 - i, b - 2 - i) if a > 9 else (a + 2, b + 2)),
        ("overlap",),
    ),
    Kind("bytes after the last tensor", in_bytes(lambda b, i: b + bytes(1 + i * i)), ("file at",)),
    Kind("truncated", in_bytes(lambda b, i: b[: len(b) * (2 * i + 1) // 10]), (".safetensors",)),
    Kind("shard is missing", lambda folder, i: (folder / shard(i)).unlink(), ("no such file",)),
    Kind("shard is a folder", folder_for_shard, ("is a folder",)),
    Kind("same tensor in two files", both_shards, ("is in model-",)),
    # index
    Kind("index not JSON", replaced(INDEX, (b"", b"{", b"\xff\xfe", b"[" * DEEP, b"nonsense")), (INDEX, "JSON")),
    Kind("index not an object", replaced(INDEX, (b"[]", b"1", b"null", b'"x"', b"true")), (INDEX,)),
    Kind(
        "index without a map",
        replaced(
            INDEX, (b"{}", b'{"weight_map": 1}', b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": null}')
        ),
        ("weight_map",),
    ),
    Kind("index with a file that is none", three_mapped_to((7, None, "x.bin", "", {})), (INDEX,)),
    Kind("index leads out of the folder", outside, (INDEX, "out of the folder")),
    Kind(
        "index with a name that is none",
        three_mapped_to(tuple(f"{name}.safetensors" for name in ("\ud800", "a\0b", "x" * 300, "\udfff/x", "\0"))),
        (INDEX,),
    ),
    Kind(
        "index names a tensor that is not there",
        in_json(INDEX, lambda v, i: v["weight_map"].update({f"ghost{i}": shard(i)})),
        ("ghost",),
    ),
    Kind(
        "index does not know a tensor",
        in_json(INDEX, lambda v, i: v["weight_map"].pop(list(v["weight_map"])[i * 5]) and None),
        ("is not in model.safetensors.index.json",),
    ),
    Kind("index and a shard are missing", without_index_and_shard, ("no such file",)),
    Kind("weights pickled", pickled, ("never loaded",)),
    # configuration
    Kind(
        "config not JSON",
        replaced("config.json", (b"", b"{", b"\xff", b"[" * DEEP, b"{'a': 1}")),
        ("config.json", "JSON"),
    ),
    Kind("config not an object", replaced("config.json", (b"[]", b"1", b"null", b'"x"', b"[{}]")), ("config.json",)),
    Kind("config is missing", lambda folder, i: (folder / "config.json").unlink(), ("config.json", "no such file")),
    Kind("config without a needed key", in_text(lambda t, i: drop(t, NEEDED, i)), ("config.json", "is missing")),
    Kind(
        "config without a key of linear attention",
        in_text(lambda t, i: drop(t, NEEDED_LINEAR, i)),
        ("linear_", "is missing"),
    ),
    Kind("hidden_size no size", text_value("hidden_size", NO_SIZES), ("hidden_size",)),
    Kind("num_hidden_layers no number", text_value("num_hidden_layers", NO_SIZES), ("num_hidden_layers",)),
    Kind(
        "num_hidden_layers too many",
        in_text(lambda t, i: t.update(num_hidden_layers=10 ** (5 + i), layer_types=None)),
        ("num_hidden_layers",),
    ),
    Kind("vocab_size no size", text_value("vocab_size", NO_SIZES), ("vocab_size",)),
    Kind(
        "vocabulary and embedding differ",
        text_value("vocab_size", (299, 301, 1, 1000, 10**6)),
        ("embed_tokens", "shape"),
    ),
    Kind(
        "rope parameters no numbers",
        text_value("rope_parameters", (7, [], {"rope_theta": "x"}, {"mrope_section": "abc"}, {"rope_type": "spiral"})),
        ("config.json",),
    ),
    Kind("eps no number", text_value("rms_norm_eps", ("x", [], True, {}, float("inf"))), ("rms_norm_eps",)),
    Kind(
        "eps no eps",
        text_value("rms_norm_eps", (1e300, -1e-6, 10**400, -(10**400), 2)),
        ("config.json", "rms_norm_eps"),
    ),
    Kind(
        "rotary factor no part",
        rope_value("partial_rotary_factor", (-1, 1.5, float("nan"), 10**400, "half")),
        ("config.json", "partial_rotary_factor"),
    ),
    Kind(
        "rotary sections no sizes",
        rope_value("mrope_section", ([10**30], [-1, 2, 3], [1.5], [1] * 5, [True, 1, 1])),
        ("config.json", "mrope_section"),
    ),
    Kind(
        "theta no number",
        rope_value("rope_theta", (10**400, -1.0, 1e39, float("inf"), [1])),
        ("config.json", "rope_theta"),
    ),
    Kind(
        "original context no length",
        rope_value("original_max_position_embeddings", (-5, 0, 10**30, "x", 512.5), rope_type="yarn", factor=2.0),
        ("config.json", "original_max_position_embeddings"),
    ),
    Kind(
        "heads beyond memory",
        in_text(lambda t, i: t.update(linear_num_value_heads=(1 << 26) << i, linear_num_key_heads=1)),
        ("config.json", "linear_num_value_heads"),
    ),
    Kind(
        "vocabulary beyond memory",
        in_text(lambda t, i: t.update(vocab_size=(1 << 26) << i)),
        ("config.json", "vocab_size"),
    ),
    Kind(
        "context no length",
        text_value("max_position_embeddings", (-1, 0, 10**400, 1.5, "x")),
        ("config.json", "max_position_embeddings"),
    ),
    Kind(
        "layer types of the wrong number",
        in_text(lambda t, i: t.update(layer_types=["linear_attention"] * (i if i < 4 else 9))),
        ("layer_types",),
    ),
    Kind(
        "layer type unknown",
        in_text(lambda t, i: t["layer_types"].__setitem__(i % 4, ("sliding", 3, None, "", "full")[i])),
        ("layer_types",),
    ),
    Kind(
        "layer types exchanged",
        # three linear layers and a full one are the right order
        in_text(lambda t, i: t.update(layer_types=layer_types(i if i != 3 else 0))),
        ("layers.",),
    ),
    Kind("value heads no multiple", text_value("linear_num_key_heads", (3, 5, 7, 8, 9)), ("linear_num_value_heads",)),
    Kind(
        "architecture unknown",
        in_json(
            "config.json",
            lambda c, i: c.update(
                architectures=[("LlamaForCausalLM", "Qwen3ForCausalLM", "X", "GPT2LMHeadModel", "Qwen3_5")[i]]
            ),
        ),
        ("neg attach",),
    ),
    Kind(
        "architecture not named",
        json_value("config.json", "architectures", ([], None, "x", [1], ["a", "b"])),
        ("architectures",),
    ),
    Kind("text_config no object", json_value("config.json", "text_config", (1, "x", [], None, True)), ("config.json",)),
    Kind(
        "quantized already",
        in_json(
            "config.json",
            lambda c, i: c.update(quantization_config={"quant_method": ("fp8", "awq", "gptq", "nvfp4", "x")[i]}),
        ),
        ("quantization_config",),
    ),
    Kind("heads that do not fit", in_text(lambda t, i: t.update({SIZES[i]: 24})), ("shape",)),
    # tokenizer
    Kind("tokenizer is missing", lambda folder, i: (folder / "tokenizer.json").unlink(), ("tokenizer.json",)),
    Kind(
        "tokenizer not JSON", replaced("tokenizer.json", (b"", b"{", b"\xff", b"[" * DEEP, b"x")), ("tokenizer.json",)
    ),
    Kind(
        "tokenizer of a different type",
        json_value(
            "tokenizer.json", "model", (None, {}, {"type": "Unigram"}, {"type": "BPE"}, {"type": "BPE", "vocab": []})
        ),
        ("tokenizer.json", "BPE"),
    ),
    Kind(
        "merges malformed",
        in_json(
            "tokenizer.json",
            lambda t, i: t["model"].update(merges=(7, ["a"], [["a"]], [["a", 1]], [["a", "b", "c"]])[i]),
        ),
        ("merges",),
    ),
    Kind(
        "merges no text",
        in_json(
            "tokenizer.json",
            lambda t, i: t["model"]["merges"].__setitem__(
                i % 4, [chr(0xD800 + i), "x"] if i % 2 else f"a {chr(0xDFF0 + i)}"
            ),
        ),
        ("tokenizer.json", "merges"),
    ),
    Kind(
        "chat template no text",
        without_template_file(
            json_value(
                "tokenizer_config.json",
                "chat_template",
                ([1], 7, "\ud800", [{"name": 1, "template": "x"}], [{"name": "a", "template": "\udfff"}]),
            )
        ),
        ("tokenizer_config.json", "chat_template"),
    ),
    Kind(
        "chat template file no text",
        replaced("chat_template.jinja", (b"\xff", b"\xed\xa0\x80", b"a\x80", b"\xc3(", b"\xfe\xff")),
        ("chat_template.jinja", "UTF-8"),
    ),
    Kind(
        "special token no token",
        text_value("bos_token_id", (-1, -5, -(10**30), 10**30, 1 << 31)),
        ("config.json", "bos", "token"),
    ),
    Kind("two tokens with one id", in_vocabulary(lambda v, i: v.update({f"new{i}": i})), ("same id",)),
    Kind(
        "token without a sound id",
        in_vocabulary(lambda v, i: v.update(new=("x", -1, None, 1.5, True)[i])),
        ("has no id",),
    ),
    Kind("token beyond the embedding", in_vocabulary(lambda v, i: v.update(new=300 + 10**i)), ("embedding",)),
    Kind(
        "token that is not text",
        in_vocabulary(lambda v, i: v.update({chr(0xD800 + i) + "x": 290})),
        ("not valid text",),
    ),
    Kind(
        "added tokens malformed",
        json_value("tokenizer.json", "added_tokens", (7, [7], [{}], [{"content": 1}], [{"content": "x"}])),
        ("tokenizer.json",),
    ),
    Kind(
        "pre-tokenizer unknown",
        json_value(
            "tokenizer.json",
            "pre_tokenizer",
            (None, {}, [], {"type": "Whitespace"}, {"pretokenizers": [{"pattern": {"Regex": "x"}}]}),
        ),
        ("pre-tokenizer",),
    ),
    Kind(
        "tokenizer_config not JSON",
        replaced("tokenizer_config.json", (b"", b"{", b"\xff", b"[1]", b"x")),
        ("tokenizer_config.json",),
    ),
    Kind(
        "special token beyond the embedding",
        in_text(lambda t, i: t.update(bos_token_id=300 + 10**i)),
        ("bos", "embedding"),
    ),
    # tensors
    Kind("tensor is missing", in_tensors(lambda a, n, i: a.pop(n)), ("missing",), plain, in_shard=False),
    Kind(
        "tensor of another shape",
        in_tensors(lambda a, n, i: a.update({n: np.concatenate([a[n], a[n]])})),
        ("shape",),
        first,
    ),
    Kind(
        "tensor transposed",
        in_tensors(lambda a, n, i: a.update({n: a[n].T}), of_projection=True),
        ("shape",),
        projection,
    ),
    Kind(
        "tensor that does not belong", in_tensors(lambda a, n, i: a.update({STRAY[i]: a[n]})), ("is not a tensor of",)
    ),
    # the head
    Kind("head is missing", lambda folder, i: (folder / NEG).unlink(), ("--no-head",)),
    Kind(
        "head elsewhere is missing",
        lambda folder, i: ["--head", str(folder / f"nowhere{i}.safetensors")],
        ("nowhere", "no such file"),
    ),
    Kind("head without a tensor", in_head(lambda t, i: t.pop(HEAD[i])), (NEG, "missing")),
    Kind("head transposed", in_head(transpose), (NEG, "shape")),
    Kind("head of another width", in_head(change_width), ("hidden size",)),
    Kind("head not finite", in_head(put_not_finite), (NEG, "finite")),
    Kind(
        "threshold no threshold",
        in_head(lambda t, i: t.update({HEAD[4]: np.array((-1, np.nan, -np.inf, -1e-6, -1e30)[i], np.float32)})),
        (NEG, "threshold"),
    ),
    Kind(
        "head with integers",
        in_head(lambda t, i: t.update({HEAD[i % 4]: t[HEAD[i % 4]].astype(np.int32)})),
        (NEG, "I32"),
    ),
    Kind("head truncated", lambda folder, i: os.truncate(folder / NEG, (folder / NEG).stat().st_size * i // 5), (NEG,)),
    Kind(
        "head in shards without a tensor", in_shard_head(lambda t, i: t.pop(HEAD[i])), (".safetensors", HEAD, "missing")
    ),
    Kind("head in shards transposed", in_shard_head(transpose), (".safetensors", "shape")),
    Kind("head in shards not finite", in_shard_head(put_not_finite), (".safetensors", "finite")),
    Kind("head in shards of another width", in_shard_head(change_width), ("hidden size",)),
    Kind(
        "two heads in shards",
        in_shard_head(lambda t, i: t.update({f"neg.{HEAD[i]}": t[HEAD[i]]})),
        (".safetensors", HEAD, "second"),
    ),
    Kind("head in shards and beside them", both_heads, (NEG, "--head")),
    # the output
    Kind(
        "output is a shard",
        output(lambda folder, i: str(folder / (shard(i) if i % 2 else f"./{shard(i)}"))),
        ("same file",),
    ),
    Kind(
        "output is an input",
        output(lambda folder, i: str(folder / ("config.json", "tokenizer.json", INDEX, NEG, "README.md")[i])),
        ("same file",),
    ),
    Kind("output is the head or the matrix", elsewhere, ("same file",)),
    Kind(
        "output of the quantizer is an input",
        lambda folder, i: [
            "-o",
            str(folder / (shard(0), NEG, "config.json", "tokenizer_config.json", "chat_template.jinja")[i]),
            "--force",
            "--outtype",
            "q4_k_m",
        ],
        ("same file",),
    ),
    Kind(
        "side-car is an input",
        lambda folder, i: [
            "--side-car",
            str(folder / (shard(0), NEG, "config.json", "tokenizer.json", INDEX)[i]),
            "--force",
        ],
        ("same file",),
    ),
    Kind("side-car is the output", same_output, ("two names",)),
    Kind(
        "output is a folder",
        output(lambda folder, i: str((folder, folder.parent, "/", "/tmp", folder / ".")[i])),
        ("folder",),
    ),
    Kind(
        "output without a folder",
        output(lambda folder, i: str(folder / ("no/" * (i + 1)) / "x.gguf")),
        ("no such folder",),
    ),
    Kind(
        "output in a file",
        output(lambda folder, i: str(folder / ("config.json", "README.md", INDEX, NEG, shard(0))[i] / "x.gguf")),
        ("is a file",),
    ),
    Kind(
        "output where nobody may write",
        output(lambda folder, i: ("/proc", "/sys", "/proc/self", "/sys/kernel", "/proc/sys")[i] + "/x.gguf"),
        ("cannot be written to",),
    ),
    Kind("output no file name", output(lambda folder, i: str(folder / ("x" * (300 << i)))), ("file name",)),
    # the command line
    Kind("type unknown", lambda folder, i: ["--outtype", ("f33", "q9_k", "", "q4", "bf-16")[i]], ("outtype",)),
    Kind(
        "threads no number of threads",
        lambda folder, i: ["--threads", ("-1", "9999", "-7", "1025", "100000")[i]],
        ("--threads",),
    ),
    Kind(
        "options that exclude each other",
        lambda folder, i: (
            ["--no-head", "--head", "x"],
            ["--side-car-only"],
            ["--no-head", "--side-car", "x"],
            ["--imatrix", "x"],
            ["--revision", "main"],
        )[i],
        (
            ("--head", "--side-car-only", "--side-car", "importance matrix", "revision"),
            ("--no-head", "goes with", "--no-head", "auto", "is a folder"),
        ),
    ),
]

"""Reads a checkpoint's vocabulary from tokenizer.json: byte-level BPE with one of the family's pre-tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

from gguf import GGUFWriter, Keys, SpecialVocab, TokenType

from ..errors import ModelFileError
from ..files.input_file import shown, shown_path
from .checkpoint import MORE_TEMPLATES, is_text, read_json, read_text, without_marks

# the pre-tokenizer expressions of tokenizer.json, with llama.cpp's name of each
PRE_TOKENIZERS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen35",
}
SPACE = chr(ord(" ") + 256)  # the character that stands for a space in byte-level BPE
DEFAULT = "default"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as GGUF stores it.

    tokens, types: by id, as many as the embedding has rows. pre: the pre-tokenizer's name. special: ids and merges.
    templates: chat templates by name, the usual one as "default". notes: for the user.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    pre: str
    special: SpecialVocab
    templates: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def add_to(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        self.special.add_to_gguf(writer, quiet=True)
        # sorted by name; the library's order changes from run to run
        others = sorted(self.templates.keys() - {DEFAULT})
        for name in others:
            writer.add_string(Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), self.templates[name])
        if others:
            writer.add_array(Keys.Tokenizer.CHAT_TEMPLATES, others)
        if DEFAULT in self.templates:
            writer.add_chat_template(self.templates[DEFAULT])


def read_vocabulary(folder: Path, n_vocab: int) -> Vocabulary:
    """Reads tokenizer.json, tokenizer_config.json and the chat template. Raises ModelFileError."""
    path = folder / "tokenizer.json"
    data = read_json(path)
    reader = _TokenizerJson(path, data)
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    tokens, types = reader.tokens(n_vocab)
    more = reader.add(tokens, types, *_tokens_elsewhere(folder, config))
    notes: list[str] = []
    templates = chat_templates(folder, config, notes)
    special = _special(folder, data, n_vocab)
    for kind in special.special_token_types:  # which the library looks up in tokenizer.json alone
        if (token := _content(config.get(f"{kind}_token"))) in more:
            special.special_token_ids[kind] = more[token]
    special.merges = reader.merges()
    return Vocabulary(tokens, types, reader.pre_tokenizer(), special, templates, tuple(notes))


class _TokenizerJson:
    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self._path = path
        self._data = data

    def wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"{shown_path(self._path)}: {what}; download it again")

    def tokens(self, n_vocab: int) -> tuple[list[str], list[int]]:
        model = self._data.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            raise self.wrong("model is not byte-level BPE with a vocabulary")
        tokens = [f"[PAD{i}]" for i in range(n_vocab)]
        types = [int(TokenType.UNUSED)] * n_vocab
        for token, i in model["vocab"].items():
            self._place(tokens, types, token, i, TokenType.NORMAL, unused=True)
        added = self._data.get("added_tokens", [])
        if not isinstance(added, list):
            raise self.wrong("added_tokens is not a list")
        for entry in added:
            if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
                raise self.wrong("added_tokens holds an entry without content")
            content, kind = _added(entry["content"], entry.get("special") is True)
            self._place(tokens, types, content, entry.get("id"), kind, unused=False)
        return tokens, types

    def add(
        self, tokens: list[str], types: list[int], path: Path, more: Mapping[str, tuple[object, bool]]
    ) -> dict[str, int]:
        """Adds tokens that another file lists, with their ids and whether they are special. What is here stays.

        Returns the ids of those that were added.
        """
        known = {entry["content"] for entry in self._data.get("added_tokens") or []}
        vocabulary = self._data["model"]["vocab"]
        elsewhere = _TokenizerJson(path, self._data)
        added: dict[str, Any] = {}
        for token, (i, special) in more.items():
            if token not in known:
                content, kind = _added(token, special)
                in_vocabulary = vocabulary.get(token)
                added[token] = place = i if in_vocabulary is None else in_vocabulary
                elsewhere._place(tokens, types, content, place, kind, unused=in_vocabulary is None)
        return added

    def merges(self) -> list[str]:
        """Reads the merges as GGUF stores them: two parts with a space between; spaces within them are escaped."""
        merges = self._data["model"].get("merges")
        if not isinstance(merges, list):
            raise self.wrong("model.merges is not a list of pairs")
        out: list[str] = []
        for merge in merges:
            if type(merge) is str and merge.count(" ") == 1:
                out.append(merge)
                continue
            try:
                left, right = merge
                out.append(f"{left.replace(' ', SPACE)} {right.replace(' ', SPACE)}")
            except (AttributeError, TypeError, ValueError):
                raise self.wrong(f"model.merges holds {shown(repr(merge))}, which is not a pair of texts") from None
        if not is_text("".join(out)):
            broken = next(merge for merge in out if not is_text(merge))
            raise self.wrong(f"model.merges holds {shown(repr(broken))}, which is not valid text")
        return out

    def _place(
        self, tokens: list[str], types: list[int], token: str, i: object, kind: TokenType, *, unused: bool
    ) -> None:
        if type(i) is not int or i < 0:
            raise self.wrong(f"token {shown(token)} has no id")
        if i >= len(tokens):
            raise ModelFileError(
                f"{shown_path(self._path)}: token {shown(token)} has id {i}, "
                f"the embedding has {len(tokens)} rows; download both again"
            )
        if unused and types[i] != TokenType.UNUSED:
            raise self.wrong(f"tokens {shown(tokens[i])} and {shown(token)} have the same id {i}")
        if not is_text(token):
            raise self.wrong(f"token {i} is not valid text: {shown(token)}")
        tokens[i], types[i] = token, int(kind)

    def pre_tokenizer(self) -> str:
        pre = self._data.get("pre_tokenizer")
        steps = pre.get("pretokenizers", [pre]) if isinstance(pre, dict) else []
        for step in steps if isinstance(steps, list) else []:
            pattern = step.get("pattern") if isinstance(step, dict) else None
            expression = pattern.get("Regex") if isinstance(pattern, dict) else None
            if expression in PRE_TOKENIZERS:
                return PRE_TOKENIZERS[expression]
        raise ModelFileError(
            f"{shown_path(self._path)}: its pre-tokenizer is not one of this family "
            f"({', '.join(PRE_TOKENIZERS.values())}); "
            "convert with llama.cpp's convert_hf_to_gguf.py and join the head with `darwin-neg neg attach`"
        )


def _added(token: str, special: bool) -> tuple[str, TokenType]:
    """How GGUF stores an added token, and as what."""
    if special or (token.startswith("<|") and token.endswith("|>")):
        return token, TokenType.CONTROL
    return token.replace("\u2581", " "), TokenType.USER_DEFINED  # SentencePiece's mark for a space


def _tokens_elsewhere(folder: Path, config: Mapping[str, Any]) -> tuple[Path, Mapping[str, tuple[object, bool]]]:
    """Added tokens that tokenizer.json may lack: {token: (id, special)}, and the file that lists them.

    As in transformers, added_tokens.json counts only where tokenizer_config.json has no added_tokens_decoder.
    """
    path = folder / "tokenizer_config.json"
    decoder = config.get("added_tokens_decoder")
    if decoder is not None:
        entries: list[tuple[str, Any]] = list(decoder.items()) if isinstance(decoder, dict) else [("", None)]
        if not all(i.isdecimal() and isinstance(e, dict) and isinstance(e.get("content"), str) for i, e in entries):
            raise ModelFileError(
                f"{shown_path(path)}: added_tokens_decoder does not map ids to tokens; download the file again"
            )
        return path, {entry["content"]: (int(i), entry.get("special") is True) for i, entry in entries}
    path = folder / "added_tokens.json"
    if not path.exists():
        return path, {}
    special = {_content(value) for key, value in config.items() if key.endswith("_token")}
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = config.get(key)
        values = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else []
        special |= {_content(value) for value in values}
    return path, {token: (i, token in special) for token, i in read_json(path).items()}


def _content(token: object) -> str:
    """A token as tokenizer_config.json names it, as text or as an object; "" for anything else."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def chat_templates(folder: Path, config: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """Reads the chat templates by name, from where transformers keeps them, in its order.

    chat_template.jinja with additional_chat_templates/, else tokenizer_config.json, else chat_template.json. A file
    that is passed over although its templates differ is noted.
    """
    in_config = folder / "tokenizer_config.json", config.get("chat_template")
    path = folder / "chat_template.jinja"
    if path.exists():
        found = {DEFAULT: read_text(path)}
        for other in sorted((folder / MORE_TEMPLATES).glob("*.jinja")):
            found[other.stem] = read_text(other)
        if in_config[1] is not None and not _same_templates(in_config[1], found):
            notes.append(
                f"{shown_path(in_config[0])}: its chat template differs from {path.name}, which is used, as by "
                "transformers"
            )
        return _checked_templates(path, _listed(found))
    if in_config[1] is not None:
        return _checked_templates(*in_config)
    path = folder / "chat_template.json"
    return _checked_templates(path, read_json(path).get("chat_template")) if path.exists() else {}


def _listed(templates: Mapping[str, str]) -> list[dict[str, str]]:
    """Templates as tokenizer_config.json lists them."""
    return [{"name": name, "template": template} for name, template in templates.items()]


def _same_templates(found: Any, templates: Mapping[str, str]) -> bool:
    """Whether a field of tokenizer_config.json holds these templates. Jinja drops the newline at the end of one."""
    listed = found if isinstance(found, list) else [{"name": DEFAULT, "template": found}]
    texts = [(entry.get("name"), entry.get("template")) for entry in listed if isinstance(entry, dict)]
    ends = {name: text.removesuffix("\n") for name, text in texts if isinstance(name, str) and isinstance(text, str)}
    return ends == {name: template.removesuffix("\n") for name, template in templates.items()}


def _checked_templates(path: Path, found: Any) -> dict[str, str]:
    """Templates by name, with names that can be part of a key. Raises ModelFileError."""
    if found is None:
        return {}
    listed = found if isinstance(found, list) else [{"name": DEFAULT, "template": found}]
    out: dict[str, str] = {}
    for entry in listed:
        name, template = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not is_text(template):
            raise ModelFileError(
                f"{shown_path(path)}: chat_template is neither a text nor a list of texts with names; "
                "download the file again"
            )
        out["".join(c if c in ascii_letters + digits else "_" for c in name)] = str(template)
    return out


def _special(folder: Path, tokenizer: Mapping[str, Any], n_vocab: int) -> SpecialVocab:
    try:
        with without_marks(folder, ("tokenizer.json", "tokenizer_config.json", "config.json")) as cleaned:
            special = SpecialVocab(cleaned, load_merges=False)
    except (OSError, ModelFileError):
        raise
    except Exception as error:  # whatever a malformed file leads to in the library
        raise ModelFileError(
            f"{shown_path(folder)}: tokenizer.json, tokenizer_config.json and config.json name special tokens "
            f"that cannot be read ({shown(repr(error))}); download them again"
        ) from None
    special.chat_template = None  # see chat_templates
    processor = tokenizer.get("post_processor")
    steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    if any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps):
        # such a processor adds nothing, which older versions of the library do not say
        special.add_special_token.setdefault("bos", False)
        special.add_special_token.setdefault("eos", False)
    for kind, token in special.special_token_ids.items():
        if token >= n_vocab:
            raise ModelFileError(
                f"{shown_path(folder)}: the {kind} token of tokenizer_config.json or config.json has id {token}, "
                f"the embedding has {n_vocab} rows; download them again"
            )
    return special

"""Rules of arrays."""

from __future__ import annotations

from collections.abc import Sequence

from .gbnf import literal, times
from .keywords import Schema, Unsatisfiable, compact, impossible, inside, refuse
from .merge import Words
from .values import allows
from .visitor import Visitor

PERMUTED = 5  # so many different items come in any order, more of them in the schema's order


class Arrays:
    """Adds the rules of arrays to those of a visitor."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.rules = visitor.rules

    def array(self, words: Words, path: str) -> str:
        low, high = words.get("minItems", 0), words.get("maxItems")
        if words.get("unevaluatedItems", False) not in (True, False):
            raise refuse(path, "unevaluatedItems", "with a schema cannot be followed; use items")
        first = words.get("prefixItems", [])
        rest = words.get("items", bool(words.get("unevaluatedItems", not first)) or low > len(first))
        if high is not None and low > high:
            raise impossible(path, f"minItems {low} is above maxItems {high}")
        if "contains" in words and words.get("minContains", 1) > 0:
            inner = self.containing(words, rest, path, low, high)
        elif words.get("uniqueItems") and high not in (0, 1):
            inner = self.different(words, rest, path, low, high)
        else:
            inner = self.items(first[:high], rest, path, low, high)
        if "maxContains" in words and "contains" in words:
            raise refuse(path, "maxContains", "cannot be followed by a grammar")
        return f'"[" own-space {inner} own-space "]"' if inner else '"[" own-space "]"'

    def items(self, first: Sequence[Schema], rest: Schema, path: str, low: int, high: int | None) -> str:
        parts = [self.visitor.visit(schema, inside(path, "prefixItems", k)) for k, schema in enumerate(first)]
        low, high = max(low - len(parts), 0), None if high is None else high - len(parts)
        item = ""
        try:
            item = "" if rest is False or high == 0 else self.visitor.visit(rest, inside(path, "items"))
        except Unsatisfiable:
            if low > 0:
                raise
        if not item and low > 0:
            raise impossible(path, "minItems asks for more items than there can be")
        fixed = ' "," own-space '.join(parts)
        if not item:
            return fixed
        if parts:
            return f'{fixed} ("," own-space {item}){times(low, high)}'
        many = f'{item} ("," own-space {item}){times(max(low - 1, 0), None if high is None else high - 1)}'
        # a rule of its own, because llama.cpp counts what is repeated inside parentheses again for those after them
        return many if low > 0 else f"{self.rules.add(many)}?"

    def containing(self, words: Words, rest: Schema, path: str, low: int, high: int | None) -> str:
        count = words.get("minContains", 1)
        if words.get("prefixItems") or words.get("uniqueItems") or high is not None or low > count:
            raise refuse(path, "contains", "beside prefixItems, uniqueItems, minItems or maxItems cannot be followed")
        wanted = self.visitor.visit(
            words["contains"] if rest is True else {"allOf": [rest, words["contains"]]}, inside(path, "contains")
        )
        item = self.visitor.visit(rest, inside(path, "items"))
        before = f'({item} "," own-space)*'
        return (
            f'{before} {wanted} ("," own-space ({item} "," own-space)* {wanted}){times(count - 1, count - 1)} '
            f'("," own-space {item})*'
            if count > 1
            else f'{before} {wanted} ("," own-space {item})*'
        )

    def different(self, words: Words, rest: Schema, path: str, low: int, high: int | None) -> str:
        """Items that must differ, of a schema that allows few values."""
        values = None if words.get("prefixItems") else self.values(rest, path)
        if values is None:
            raise refuse(path, "uniqueItems", "cannot be followed unless the items are of an enum; leave it out")
        high = len(values) if high is None else min(high, len(values))
        if low > high:
            raise impossible(path, f"minItems asks for {low} different items of {len(values)}")
        names: dict[tuple[int, ...], str] = {}
        any_order = len(values) <= PERMUTED

        def rule(used: tuple[int, ...]) -> str:
            key = tuple(sorted(used)) if any_order else (len(used), used[-1] if used else -1)
            if key not in names:
                names[key] = self.rules.name()
                left = [k for k in range(len(values)) if (k not in used if any_order else k > key[1])]
                parts = ['""'] if len(used) >= low else []
                if len(used) < high:
                    comma = '"," own-space ' if used else ""
                    enough = left if any_order else [k for k in left if len(used) + len(values) - k >= low]
                    parts += [f"{comma}{values[k]} {rule((*used, k))}" for k in enough]
                self.rules.add(" | ".join(parts), names[key])
            return names[key]

        return rule(())

    def values(self, schema: Schema, path: str) -> list[str] | None:
        """Literals of all values that a schema allows, if they are few."""
        if isinstance(schema, bool):
            return None
        out: dict[object, str] = {}  # 1 and 1.0 are the same value
        for words in self.visitor.cases(self.visitor.merger.words(schema, path), path):
            if "enum" in words:
                for value in words["enum"]:
                    if allows(words, value, path):
                        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                        out.setdefault(value if is_number else compact(value), literal(compact(value)))
            elif words.keys() == {"type"} and set(words["type"]) <= {"boolean", "null"}:
                texts = ["true", "false"] * ("boolean" in words["type"]) + ["null"] * ("null" in words["type"])
                out |= {text: literal(text) for text in texts}
            else:
                return None
        return list(out.values())

"""The YAML that `readers.parse_yaml` takes: plain values, written out."""

from __future__ import annotations

import math
from typing import Any

import yaml

__all__ = ["Loader"]

_MOST_DEPTH = 100
_MOST_DIGITS = 40
_MOST_NODES = 10_000
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class Loader(yaml.SafeLoader):
    """Plain values only: no aliases, no merge keys, no entry twice, no tags, no dates, no numbers without an end."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As YAML does it, but no alias and not too deep."""
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases (*name) are not taken: write the value out", self.peek_event())
        self._nodes += 1
        if self._nodes > _MOST_NODES:  # each takes about half a millisecond
            self._refuse(f"it has more than {_MOST_NODES} values", self.peek_event())
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            self._refuse(f"it is nested more than {_MOST_DEPTH} deep", self.peek_event())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """YAML itself would keep the last of two equal entries without a word."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                self._refuse("merge keys (<<) are not taken: write the entries out", key)
        values: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(values) != len(node.value):
            self._refuse("an entry is there twice", node)
        return values

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """An integer or a finite number."""
        text = self.construct_scalar(node)
        if len(text) > _MOST_DIGITS:
            self._refuse(f"a number of {len(text)} digits", node)
        value: int | float = self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)
        if not math.isfinite(value):
            self._refuse(f"{text} is not a finite number", node)
        return value

    def _refuse(self, problem: str, at: Any) -> None:
        raise yaml.constructor.ConstructorError(None, None, problem, at.start_mark)


Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _PLAIN
}
for _number in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_number}", Loader.construct_number)
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

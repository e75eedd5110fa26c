"""JSON schemas that no finite text satisfies, because what they require requires itself again.

Knows: tables of JSON, as `json.loads` gives them. A text that follows such a schema only ends where
its tokens do, and is then no JSON at all.
"""

from typing import Any

PASSES, DEPTH = 50, 60
"""What is still open behind so many is taken to end."""


def is_endless(schema: Any) -> bool:
    """Whether every text that follows the schema is without end.

    Only what is surely endless is: unknown keywords, and references to other documents, end.

    >>> is_endless({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})
    True
    >>> is_endless({"type": "object", "properties": {"a": {"$ref": "#"}}})
    False
    """
    search = _Search(schema)
    for _ in range(PASSES):
        known = len(search.ended)
        search.failed.clear()
        if search.ends(schema, 0):
            return False
        if len(search.ended) == known:
            return True
    return False


class _Search:
    """Which references are known to end; each pass may learn of further ones.

    Args:
        whole: what `#` refers to.
    """

    def __init__(self, whole: Any):
        self.whole = whole
        self.ended: set[str] = set()
        self.failed: set[str] = set()

    def ends(self, node: Any, depth: int) -> bool:
        """Whether some finite text follows it, as far as is known."""
        if not isinstance(node, dict) or depth > DEPTH or "enum" in node or "const" in node:
            return True
        deeper = depth + 1
        choices = [each for name in ("anyOf", "oneOf") if (each := _list(node, name))]
        return (
            self._refers_to_what_ends(node.get("$ref"), deeper)
            and all(self.ends(each, deeper) for each in _list(node, "allOf"))
            and all(any(self.ends(each, deeper) for each in any_of) for any_of in choices)
            and self._value_ends(node, deeper)
        )

    def _refers_to_what_ends(self, name: Any, depth: int) -> bool:
        if not isinstance(name, str) or name in self.ended:
            return True
        if name in self.failed:  # or it is what is asked just now
            return False
        self.failed.add(name)
        found, target = self._target(name)
        if not found or self.ends(target, depth):
            self.ended.add(name)
        return name in self.ended

    def _target(self, name: str) -> tuple[bool, Any]:
        """What a pointer points to, if it is of this document."""
        if not name.startswith("#"):
            return False, None
        node = self.whole
        for part in name.removeprefix("#").removeprefix("/").split("/") if len(name) > 1 else []:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, dict) or key not in node:
                return False, None
            node = node[key]
        return True, node

    def _value_ends(self, node: dict[str, Any], depth: int) -> bool:
        kinds = _list(node, "type") or [node.get("type")]
        return any(
            self._object_ends(node, depth)
            if kind == "object"
            else kind != "array" or self._array_ends(node, depth)
            for kind in kinds
        )

    def _object_ends(self, node: dict[str, Any], depth: int) -> bool:
        if "patternProperties" in node:
            return True
        own, others = node.get("properties"), node.get("additionalProperties", True)
        own = own if isinstance(own, dict) else {}
        required = [name for name in _list(node, "required") if isinstance(name, str)]
        return all(self.ends(own.get(name, others), depth) for name in required)

    def _array_ends(self, node: dict[str, Any], depth: int) -> bool:
        first, count = _list(node, "prefixItems"), node.get("minItems")
        count = count if isinstance(count, int) else 0
        needed = [*first[:count], *([node.get("items", True)] if count > len(first) else [])]
        return all(self.ends(each, depth) for each in needed)


def _list(node: dict[str, Any], name: str) -> list[Any]:
    """What stands there, if it is a list."""
    found = node.get(name)
    return found if isinstance(found, list) else []

"""Which target a path leads to: one look-up for each of its parts, however many paths there are."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Node(Generic[T]):
    """What may follow here: fixed parts, or any text as a parameter. `target`: of the path that ends here."""

    fixed: dict[str, "_Node[T]"] = field(default_factory=dict)
    parameter: "tuple[str, _Node[T]] | None" = None
    target: T | None = None

    def follow(self, part: str) -> "_Node[T]":
        """The node of a part as it is declared, `text` or `{name}`; made if it is new."""
        if not part.startswith("{"):
            assert self.parameter is None, f"{part} stands where {self.parameter} does"
            return self.fixed.setdefault(part, _Node())
        name = part.strip("{}")
        if self.parameter is None:
            self.parameter = name, _Node()
        assert not self.fixed, f"{part} stands where {list(self.fixed)} do"
        assert self.parameter[0] == name, f"{part} stands where {self.parameter[0]} does"
        return self.parameter[1]


class PathTree(Generic[T]):
    """Paths as they are declared, `/sites/{site}`. A parameter is any text without a slash; never is it empty."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, path: str, target: T) -> None:
        node = self._root
        for part in path.split("/"):
            node = node.follow(part)
        node.target = target

    def find(self, path: str) -> tuple[T | None, dict[str, str]]:
        """The target, None if there is nothing, and the parameters by their names."""
        node, parameters = self._root, {}
        for part in path.split("/"):
            if node.parameter is not None and part:
                name, node = node.parameter
                parameters[name] = part
            elif (following := node.fixed.get(part)) is not None:
                node = following
            else:
                return None, {}
        return node.target, parameters

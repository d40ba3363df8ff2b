"""Which target a path leads to."""

import pytest

from http_api.paths import PathTree

PATHS = ("/healthz", "/sites", "/sites/{site}", "/sites/{site}/feeders/{feeder}/config", "/sites/{site}/commands")


@pytest.fixture
def tree() -> PathTree[str]:
    tree = PathTree[str]()
    for path in PATHS:
        tree.add(path, path)
    return tree


@pytest.mark.parametrize(
    ("path", "target", "parameters"),
    [
        ("/healthz", "/healthz", {}),
        ("/sites", "/sites", {}),
        ("/sites/pond7", "/sites/{site}", {"site": "pond7"}),
        ("/sites/{site}", "/sites/{site}", {"site": "{site}"}),
        ("/sites/commands/commands", "/sites/{site}/commands", {"site": "commands"}),
        ("/sites/p/feeders/f1/config", "/sites/{site}/feeders/{feeder}/config", {"site": "p", "feeder": "f1"}),
    ],
)
def test_a_path_leads_to_its_target_with_its_parameters(
    tree: PathTree[str], path: str, target: str, parameters: dict[str, str]
) -> None:
    assert tree.find(path) == (target, parameters)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "*",
            "sites",
            "//sites",
            "/sites/",
            "/sites//commands",
            "/sites/pond7/",
            "/Sites",
            "/sites/p/feeders",
        ),
        *("/sites/p/feeders//config", "/sites/p/feeders/f1/config/more", "/healthz/more", "/nothing"),
    ],
)
def test_elsewhere_there_is_nothing(tree: PathTree[str], path: str) -> None:
    assert tree.find(path)[0] is None


@pytest.mark.parametrize("path", ["/{what}", "/sites/all", "/sites/{other}/more"])
def test_a_path_that_another_one_hides_is_not_taken(tree: PathTree[str], path: str) -> None:
    with pytest.raises(AssertionError):
        tree.add(path, path)

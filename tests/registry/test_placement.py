"""Where a new replica goes."""

import pytest

from apps.registry.placement import NODE_ALIVE_S, NodeView, choose_node


def view(name: str, age_s: float | None = 0.0, total: int = 0, of_model: int = 0) -> NodeView:
    return NodeView(id=1, name=name, last_seen_age_s=age_s, num_replicas=total, num_replicas_of_model=of_model)


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        ([], None),
        ([view("a")], "a"),
        ([view("b"), view("a")], "a"),
        ([view("a", total=2), view("b", total=1)], "b"),
        ([view("a", total=3), view("b", total=1, of_model=1)], "a"),
        ([view("a", age_s=NODE_ALIVE_S + 1), view("b", total=9)], "b"),
        ([view("a", age_s=NODE_ALIVE_S)], "a"),
        ([view("a", age_s=None)], None),
        ([view("a", age_s=NODE_ALIVE_S + 1)], None),
    ],
)
def test_choice(nodes, chosen):
    node = choose_node(nodes)
    assert (node and node.name) == chosen

"""Which machine a new replica goes to. Pure: knows neither clock nor database."""

from collections.abc import Iterable
from dataclasses import dataclass

NODE_ALIVE_S = 30.0  # seen so recently: may be given work
NODE_LOST_S = 60.0  # not seen for so long: its replicas are taken for lost


@dataclass(frozen=True, slots=True)
class NodeView:
    """A machine as placement sees it."""

    id: int
    name: str
    last_seen_age_s: float | None  # None: never seen
    num_replicas: int  # of any model, on it or on the way to it
    num_replicas_of_model: int  # of the model to be placed


def choose_node(nodes: Iterable[NodeView]) -> NodeView | None:
    """The machine with the fewest replicas of this model, then the fewest of all, then by name. None: nobody is alive.

    Spreading one model first keeps it alive when a machine goes.
    """
    alive = [node for node in nodes if node.last_seen_age_s is not None and node.last_seen_age_s <= NODE_ALIVE_S]
    return min(alive, key=lambda node: (node.num_replicas_of_model, node.num_replicas, node.name), default=None)

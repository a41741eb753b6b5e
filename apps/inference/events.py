"""What `generate()` yields: the worker's own events, and the news of a wait before them."""

from dataclasses import dataclass
from typing import Literal

from gpu_worker.protocol import Delta, Finished, Started, Vectors

WaitStage = Literal["loading", "queued"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing to send yet: the model is being loaded, or others are ahead in its queue.

    `loading` comes before Started, with the progress from 0 to 1 where it is known; `queued` comes after
    Started and before the first Delta, with how many requests are ahead.
    """

    stage: WaitStage
    progress: float | None = None
    queue_position: int | None = None


# The `id` inside a worker's event names the attempt at a replica; the request's own id is the one it was made with.
# Started comes once, and every choice ends with one Finished, of which only the final has `last`.
Event = Waiting | Started | Delta | Vectors | Finished

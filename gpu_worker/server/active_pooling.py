"""A request for vectors or scores between its arrival and its last event. Event loop thread only."""

from dataclasses import dataclass

from gpu_worker.protocol import Embed, Finished, FromWorker, Score, Started, Usage, Vectors
from gpu_worker.server.active import ActiveRequest
from gpu_worker.tasks.pooling.frontend import PreparedInputs
from gpu_worker.tasks.pooling.request import PoolingOutput, PoolingRequest


@dataclass(eq=False)
class Inputs:
    """All inputs together, in the place of a generation's choices."""

    request: PoolingRequest
    index: int = 0
    num_tokens: int = 0  # results sent: none while it waits
    is_finished: bool = False


class ActivePooling(ActiveRequest):
    """Its prompt tokens are those of all inputs; it has no others."""

    def begin(self, message: Embed | Score, prepared: PreparedInputs) -> list[FromWorker]:
        """Make the engine's request."""
        self.num_prompt_tokens = prepared.num_tokens
        request = PoolingRequest(
            id=f"{self.id}/0",
            sequences=prepared.sequences,
            options=prepared.options,
            user=message.user,
            weight=message.weight,
            priority=message.priority,
            arrival_s=self.arrival_s,
        )
        self.choices.append(Inputs(request))
        return [Started(self.id, self.num_prompt_tokens)]

    def read(self, choice: Inputs, output: PoolingOutput) -> list[FromWorker]:
        """The events of one engine output."""
        events: list[FromWorker] = []
        if output.indices:
            choice.num_tokens += len(output.indices)
            events.append(Vectors(self.id, output.indices, output.width, output.rows))
        if output.finish_reason is not None:
            choice.is_finished = self.is_closed = True
            events.append(Finished(id=self.id, reason=output.finish_reason, usage=self.usage(), timing=self.timing()))
        return events

    def usage(self) -> Usage:
        """The prompt alone."""
        return Usage(prompt_tokens=self.num_prompt_tokens)

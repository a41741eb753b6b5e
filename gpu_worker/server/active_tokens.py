"""A request that is answered as soon as it is prepared: the engine never hears of it. Event loop thread only."""

from dataclasses import dataclass

from gpu_worker.protocol import Detokenize, Detokenized, FromWorker, Tokenize, Tokenized
from gpu_worker.server.active import ActiveRequest


@dataclass(eq=False)
class ActiveTokens(ActiveRequest):
    """Tokens of a prompt, or the text of tokens."""

    def begin(self, message: Tokenize | Detokenize, prepared: Tokenized | Detokenized) -> list[FromWorker]:
        """The answer itself."""
        self.is_closed = True
        return [prepared]

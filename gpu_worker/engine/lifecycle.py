"""What every engine does with a request between its arrival and its end. It knows neither blocks nor forward passes."""

import logging
import time
from abc import ABC, abstractmethod

from gpu_worker.engine.request import Request, RequestStatus, TokenOutput
from gpu_worker.engine.sampler import SampledToken, Sampler
from gpu_worker.engine.waiting import WaitingQueue

logger = logging.getLogger(__name__)

ADAPTER_FAILED = "The model could not take the adapter of this request, or has no memory for it."
GRAMMAR_LEFT = "No token of this model can continue the required form, or the form is too complex to follow."
MEDIA_FAILED = "The model could not take the pictures of this request."
NOT_A_NUMBER = "The model produced values that are not numbers for this request."


class RequestLifecycle(ABC):
    """Known requests, and the outputs that wait for the end of the step. Subclasses run the model."""

    def __init__(self, max_model_len: int, waiting: WaitingQueue, sampler: Sampler | None = None) -> None:
        self.max_model_len = max_model_len
        self._waiting = waiting
        self._sampler = sampler or Sampler()
        self._requests: dict[str, Request] = {}
        self._outputs: list[TokenOutput] = []

    def add(self, request: Request) -> None:
        """Queue a request. A resumed one whose tokens already end it is answered by the next step."""
        is_stopped = request.ends_with_stop_token() or request.ends_grammar()
        is_full = request.is_full(self.max_model_len) and not request.wants_prompt_logprobs
        if is_stopped or is_full:
            request.finish_reason = "stop" if is_stopped else "length"
            request.status = RequestStatus.FINISHED
            self._outputs.append(TokenOutput(request, finish_reason=request.finish_reason))
            return
        if not self._place_adapter(request):
            return
        self._requests[request.id] = request
        self._waiting.push(request)

    def abort(self, request_id: str) -> TokenOutput | None:
        """End a request and free what it holds at once. None when it is not known (any more)."""
        request = self._requests.get(request_id)
        if request is None:
            return None
        request.finish_reason = "abort"
        self._finish(request)
        return TokenOutput(request, finish_reason="abort")

    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._requests or self._outputs)

    def queue_position(self, request_id: str) -> int | None:
        """About how many waiting requests are ahead of it; None once it runs."""
        request = self._requests.get(request_id)
        return self._waiting.estimate_position(request) if request is not None else None

    def _place_adapter(self, request: Request) -> bool:
        """Bring its adapter, if it has one, to where the model is. One that does not fit fails this request only."""
        try:
            if request.adapter is not None:
                request.adapter.place()
        except RuntimeError:
            logger.exception("the adapter of request %s could not be brought to the model", request.id)
            self._outputs.append(request.fail(ADAPTER_FAILED))
            return False
        return True

    def _take_outputs(self) -> list[TokenOutput]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def _fail_all(self, error: str) -> list[TokenOutput]:
        """End every request. Outputs of the step that was under way come first: none is lost."""
        for request in list(self._requests.values()):
            self._finish(request)
            self._outputs.append(TokenOutput(request, error=error))
        return self._take_outputs()

    def _append(self, request: Request, token: SampledToken) -> None:
        """Give a request its next token, and end it if that is its last or one that its grammar does not know."""
        if not self._follows_grammar(request, token.token_id):
            self._fail_unsupported(request, GRAMMAR_LEFT)
            return
        if request.first_token_s is None:
            request.first_token_s = time.monotonic()
        request.output_token_ids.append(token.token_id)
        self._waiting.charge(request, 1)
        request.finish_reason = request.find_finish_reason(self.max_model_len)
        if request.finish_reason is not None:
            self._finish(request)
        self._outputs.append(TokenOutput(request, token.token_id, token.logprobs, request.finish_reason))

    def _finish_unanswered(self, request: Request) -> None:
        """End a request that asks for its prompt's log-probabilities and for no token."""
        request.finish_reason = "length"
        self._finish(request)
        self._outputs.append(TokenOutput(request, finish_reason="length"))

    @staticmethod
    def _follows_grammar(request: Request, token_id: int) -> bool:
        grammar = request.grammar
        if grammar is None:
            return True
        return not grammar.has_failed and (token_id in request.eos_token_ids or grammar.accept(token_id))

    def _fail_unsupported(self, request: Request, error: str) -> None:
        self._finish(request)
        param = request.grammar.param if request.grammar is not None else None
        self._outputs.append(TokenOutput(request, error=error, error_code="unsupported", error_param=param))

    def _finish(self, request: Request) -> None:
        del self._requests[request.id]
        self._release(request)
        self._waiting.leave(request)
        self._sampler.forget(request)
        request.status = RequestStatus.FINISHED

    @abstractmethod
    def _release(self, request: Request) -> None:
        """Take a request out, whether it waits or runs, and free what it holds."""

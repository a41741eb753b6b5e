"""A request in the form in which a worker gets it. Knows no replica and no stream."""

from collections.abc import Iterator
from contextlib import contextmanager

from apps.core.errors import InvalidRequest, PayloadTooLarge
from apps.inference.requests import GenerationRequest
from apps.registry.directory import ModelSpec
from gpu_worker.protocol import Generate, ProtocolError, ResumeChoice, Sampling


def make_generate(
    request_id: str,
    request: GenerationRequest,
    model: ModelSpec,
    sampling: Sampling,
    resume: list[ResumeChoice] | None = None,
) -> Generate:
    """The request with what its model's settings add to it."""
    return Generate(
        id=request_id,
        kind=request.kind,
        sampling=sampling,
        messages=request.messages,
        prompt=request.prompt,
        tools=request.tools,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        chat_template_kwargs={**model.chat_template_kwargs, **(request.chat_template_kwargs or {})} or None,
        continue_final_message=request.continue_final_message,
        enable_thinking=request.enable_thinking,
        reasoning_effort=request.reasoning_effort,
        neutral_effort=request.neutral_effort,
        thinking_budget=request.thinking_budget,
        reasoning=request.default_reasoning if model.reasoning == "auto" else model.reasoning,
        echo=request.echo,
        suffix=request.suffix,
        n=request.n,
        user=f"user-{request.caller.user_id}",
        priority=request.priority,
        media=request.media,
        structure=request.structure,
        adapter=model.adapter,
        resume=resume,
    )


@contextmanager
def explain_encoding() -> Iterator[None]:
    """What cannot be put into a frame is the client's to know. Raises PayloadTooLarge or InvalidRequest."""
    try:
        yield
    except ProtocolError as error:
        raise PayloadTooLarge("The request is too large for the model's server.") from error
    except OverflowError as error:  # in a tool's schema, say: JSON has no largest number, MessagePack has
        raise InvalidRequest("The request holds a whole number of more than 64 bits.") from error

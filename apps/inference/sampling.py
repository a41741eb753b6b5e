"""How a request's sampling values are completed from its model's defaults."""

import logging
from hashlib import blake2b

import msgspec

from apps.core.errors import InternalError
from apps.inference.pool import get_pool
from apps.inference.requests import GenerationRequest
from apps.registry import directory
from apps.registry.directory import ModelSpec
from gpu_worker.protocol import ModelInfo, Sampling

# Of a model whose replica was lost just now.
_UNKNOWN = ModelInfo(architecture="", engine="paged", dtype="", device="", max_model_len=0, vocab_size=0)

logger = logging.getLogger(__name__)


def resolve_sampling(request: GenerationRequest, model: ModelSpec, info: ModelInfo) -> Sampling:
    """The request over the model's settings over the checkpoint's own over neutral values.

    Where nobody gives a seed it follows from the request's id, which is random, so that an answer can be repeated by
    who has its id. Raises InternalError when the model's settings hold a value of a wrong type.
    """
    seed = int.from_bytes(blake2b(request.id.encode(), digest_size=8).digest()) >> 1
    values = {"seed": seed, **info.generation_defaults, **model.generation_defaults, **request.sampling}
    try:
        return msgspec.convert(values, Sampling)
    except msgspec.ValidationError as error:
        # What the client gave was checked before it became a GenerationRequest.
        logger.error("generation defaults of model %s: %s", model.name, error)
        raise InternalError(f"The generation defaults of the model '{model.name}' are not valid.") from error


async def find_sampling(request: GenerationRequest) -> Sampling:
    """How a request that has started is sampled: what `resolve_sampling` gives with a replica that is ready."""
    model = await directory.get_model(request.model, request.caller)
    return resolve_sampling(request, model, await find_model_info(request) or _UNKNOWN)


async def find_model_info(request: GenerationRequest) -> ModelInfo | None:
    """What a ready replica says of the request's model; None where there is none."""
    model = await directory.get_model(request.model, request.caller)
    links = get_pool().get_links(await directory.get_replicas(model.id))
    infos = [link.info for link in links if link.info is not None]
    return infos[0] if infos else None

"""POST /tokenize and POST /detokenize: which tokens a prompt is, and which text tokens are. Nothing is generated."""

from apps.core.http import encode_json
from apps.inference.tokens import detokenize, tokenize
from apps.openai_api.consumers import GenerationConsumer
from apps.openai_api.schemas.tokenize import parse_detokenize, parse_tokenize


class TokenizeConsumer(GenerationConsumer):
    """POST /v1/tokenize"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_tokenize(body, self.caller)
        tokens = await tokenize(
            call.request,
            add_special_tokens=call.add_special_tokens,
            add_generation_prompt=call.add_generation_prompt or call.request.continue_final_message,
            with_strings=call.with_strings,
        )
        answer = {
            "count": tokens.num_tokens,
            "max_model_len": tokens.max_model_len,
            "tokens": tokens.token_ids,
            "token_strs": tokens.strings,
        }
        await self.send_json(encode_json(answer))


class DetokenizeConsumer(GenerationConsumer):
    """POST /v1/detokenize"""

    async def respond(self, body: bytes) -> None:
        """Raises ServiceError."""
        call = parse_detokenize(body)
        text = await detokenize(call.model, self.caller, call.token_ids)
        await self.send_json(encode_json({"prompt": text}))

"""Runs a Whisper model on one window of sound at a time, through the model's own `generate`. Knows no queue, no text.

Engine thread only. Long recordings follow transformers' sequential long-form decoding: each window begins where the
last time stamp of the one before it lies. Tokens are those of one call of `generate` over the whole recording, but for
what would tie windows together (`condition_on_prev_tokens`) or drop them (`no_speech_threshold`), which stay off.

Shapes: M mel bins, F frames of 10 ms, V vocabulary.
"""

import contextlib
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from gpu_worker.tasks.transcription.request import HeardSegment, SpeechRequest, Window

_S_PER_FRAME = 0.01


class WhisperRunner:
    """A model and its feature extractor."""

    def __init__(self, model: Any, feature_extractor: Any) -> None:
        self._model = model
        self._extractor = feature_extractor
        encoder = model.get_encoder()
        self._stride = encoder.conv1.stride[0] * encoder.conv2.stride[0]
        self._num_window_frames = self._stride * model.config.max_source_positions
        config = model.generation_config
        config.condition_on_prev_tokens = False
        config.no_speech_threshold = config.logprob_threshold = config.compression_ratio_threshold = None
        is_multilingual = getattr(config, "is_multilingual", True)
        language_ids = (is_multilingual and getattr(config, "lang_to_id", None)) or {}
        self._language_ids = {token.strip("<|>"): int(token_id) for token, token_id in language_ids.items()}
        self._timestamp_begin = getattr(config, "no_timestamps_token_id", model.config.vocab_size) + 1

    def extract_features(self, request: SpeechRequest) -> None:
        """Samples to features. Up to a window is padded with silence, as the model was trained."""
        samples = request.samples
        is_short = len(samples) <= self._extractor.n_samples
        features = self._extractor(
            samples,
            sampling_rate=self._extractor.sampling_rate,
            padding="max_length" if is_short else "longest",
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        request.features_1MF = features.input_features.to(self._model.device, self._model.dtype)
        request.num_sound_frames = int(features.attention_mask.sum())
        request.samples = None

    @torch.no_grad()
    def hear(self, request: SpeechRequest) -> Window:
        """The window at the request's position."""
        seek = request.position_frames
        window_1MF = request.features_1MF[:, :, seek : seek + self._num_window_frames]
        with self._attentions(wanted=request.with_words):
            encoded = self._encode(window_1MF)
            no_speech_prob = self._hear_start(request, encoded)
            torch.manual_seed(_make_seed(request.sampling.seed, seek))
            outputs = self._model.generate(
                window_1MF,
                encoder_outputs=encoded,
                attention_mask=self._make_mask(request, window_1MF),
                return_timestamps=request.uses_timestamps,
                return_token_timestamps=request.with_words or None,
                prompt_ids=self._make_prompt(request),
                temperature=request.sampling.temperature,
                logprob_threshold=float("-inf") if request.with_segments else None,  # has the scores returned
                force_unique_generate_call=True,
                return_segments=True,
                **self._name_language(request),
            )
        return self._read(request, outputs["segments"][0], window_1MF.shape[-1], no_speech_prob)

    def _encode(self, window_1MF: torch.Tensor) -> BaseModelOutput:
        missing = self._num_window_frames - window_1MF.shape[-1]
        padded = torch.nn.functional.pad(window_1MF, (0, missing))
        outputs: BaseModelOutput = self._model.get_encoder()(padded, return_dict=True)
        return outputs

    def _hear_start(self, request: SpeechRequest, encoded: BaseModelOutput) -> float:
        """Detect the language where it is not known; returns how likely nobody speaks, where that is asked for."""
        must_detect = bool(self._language_ids) and request.language is None
        if not must_detect and not request.with_segments:
            return 0.0
        start = torch.tensor([[self._model.generation_config.decoder_start_token_id]], device=self._model.device)
        logits_V = self._model(encoder_outputs=encoded, decoder_input_ids=start, use_cache=False).logits[0, -1]
        if must_detect:
            codes = list(self._language_ids)
            request.language = codes[int(logits_V[list(self._language_ids.values())].argmax())]
        no_speech_id = self._timestamp_begin - 2
        return float(logits_V.float().softmax(-1)[no_speech_id]) if no_speech_id < len(logits_V) else 0.0

    def _name_language(self, request: SpeechRequest) -> dict[str, str]:
        if not self._language_ids:
            return {}
        return {"language": f"<|{request.language}|>", "task": request.task}

    def _make_prompt(self, request: SpeechRequest) -> torch.Tensor | None:
        if not request.prompt_token_ids:
            return None
        return torch.tensor(request.prompt_token_ids, device=self._model.device)

    def _make_mask(self, request: SpeechRequest, window_1MF: torch.Tensor) -> torch.Tensor:
        """Which frames are sound. Only the alignment of words looks at it."""
        num_frames = window_1MF.shape[-1]
        num_sound = request.num_sound_frames - request.position_frames
        mask = torch.zeros(1, num_frames, dtype=torch.long, device=window_1MF.device)
        mask[:, : num_sound if num_sound > self._stride else num_frames] = 1
        return mask

    @contextlib.contextmanager
    def _attentions(self, *, wanted: bool) -> Iterator[None]:
        """Only the plain implementation returns them, to which `generate` switches; it does not switch back."""
        config = self._model.config
        before = config._attn_implementation
        if wanted:
            config._attn_implementation = "eager"
        try:
            yield
        finally:
            config._attn_implementation = before

    def _read(
        self, request: SpeechRequest, segments: list[dict[str, Any]], num_frames: int, no_speech_prob: float
    ) -> Window:
        seek, begin = request.position_frames, self._timestamp_begin
        result, first = segments[0]["result"], segments[0]["idxs"][0]
        sequence = result if isinstance(result, torch.Tensor) else result["sequences"]
        token_ids = self._cut_padding(sequence[first:].tolist())
        last = segments[-1]["tokens"].tolist()
        position = num_frames
        if last[-1:] and last[-1] >= begin and last[-2:-1] and last[-2] >= begin:
            # Cut off in the middle of what is said after the last stamp: the next window begins there.
            position = (last[-2] - begin) * self._stride or num_frames
        offset_s = seek * _S_PER_FRAME
        return Window(
            seek_frames=seek,
            position_frames=min(seek + position, request.features_1MF.shape[-1]),
            token_ids=token_ids,
            segments=[_read_segment(segment, offset_s, with_words=request.with_words) for segment in segments],
            avg_logprob=_average_logprob(result["scores"], token_ids, request.sampling.temperature)
            if request.with_segments
            else 0.0,
            no_speech_prob=no_speech_prob,
        )

    def _cut_padding(self, token_ids: list[int]) -> list[int]:
        """Up to the end token, which stays."""
        eos = self._model.generation_config.eos_token_id
        return token_ids[: token_ids.index(eos) + 1] if eos in token_ids else token_ids

    def is_done(self, request: SpeechRequest) -> bool:
        """Whether every window has been heard."""
        return request.features_1MF is not None and request.position_frames >= request.features_1MF.shape[-1]


def _read_segment(segment: dict[str, Any], offset_s: float, *, with_words: bool) -> HeardSegment:
    times: list[tuple[float, float]] = []
    if with_words:
        ends = [round(offset_s + float(time), 2) for time in segment["token_timestamps"]]
        times = list(zip([ends[0], *ends[:-1]], ends, strict=True)) if ends else []
    start_s, end_s = (round(offset_s + float(segment[name]), 2) for name in ("start", "end"))
    return HeardSegment(start_s, end_s, segment["tokens"].tolist(), times)


def _average_logprob(scores: list[torch.Tensor], token_ids: list[int], temperature: float) -> float:
    """Of the tokens sampled, the end included, before temperature."""
    count = min(len(scores), len(token_ids))
    if count == 0:
        return 0.0
    scores_TV = torch.stack(list(scores[:count])).float() * (temperature or 1.0)
    chosen = torch.tensor(token_ids[:count]).unsqueeze(-1)
    return float(scores_TV.log_softmax(-1).gather(-1, chosen).mean())


def _make_seed(seed: int, position_frames: int) -> int:
    """Of one window: the same whatever else runs, and on whichever replica."""
    return int.from_bytes(blake2b(f"{seed}:{position_frames}".encode(), digest_size=7).digest())

"""A head start: three attention heads wired by hand to copy, which training refines instead of discovering.

Names, numbers and tool arguments are copied from the prompt. Small models come to it by "induction heads" (Olsson et
al. 2022, https://arxiv.org/abs/2209.11895): one head tells each position which token came before it, a head of the
next layer looks for positions whose predecessor is the present token, and repeats what stood there.

    ... Ada ly ... Ada ?        the second "Ada" finds the "ly" whose predecessor was "Ada": next comes "ly"

A second head of the first layer tells the token two before, so that of several such places the one with the same
token before "Ada" is preferred: pieces of words repeat, pairs of them seldom.

Found by training, they take most of the half hour; wired, copying works from the first minutes.
"""

import torch
from transformers import LlamaForCausalLM

_POSITION_PAIRS = 8  # the fastest rotary pairs tell neighbours apart
_SLOWEST_CONTENT_PAIR = 10  # slower pairs hardly turn over a chat, so they compare contents at any distance
_POSITION_BIAS = 10.0
_CONTENT_SCALE = 2.8
_OLDER_SHARE = 0.7
_COPY_SCALE = 6.0


@torch.no_grad()
def wire_copying_heads(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Overwrite heads 0 and 2 of the first layer and head 0 of the second; all else keeps its random weights."""
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    pairs = size // 2
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / pairs)
    basis, _ = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size, generator=generator))
    seen, one_before, two_before, copied = basis.T.split(size)
    embedding_scale = model.model.embed_tokens.weight.std()

    previous = model.model.layers[0].self_attn
    angles = frequencies[:_POSITION_PAIRS]
    # Heads 0 and 2 have key and value heads of their own; the other two share them and stay random.
    for head, key_head, distance, written in ((0, 0, 1, one_before), (2, 1, 2, two_before)):
        for projection, at, phase in ((previous.q_proj, head * size, 0), (previous.k_proj, key_head * size, distance)):
            projection.weight[at : at + size] = 0
            projection.bias[at : at + size] = 0
            # Rotary position p turns a pair by p * angle: a key so many steps ahead in phase fits the query best.
            projection.bias[at : at + _POSITION_PAIRS] = _POSITION_BIAS * torch.cos(phase * angles)
            projection.bias[at + pairs : at + pairs + _POSITION_PAIRS] = _POSITION_BIAS * torch.sin(phase * angles)
        previous.v_proj.weight[key_head * size : (key_head + 1) * size] = seen
        previous.o_proj.weight[:, head * size : (head + 1) * size] = written.T * embedding_scale * 1.5

    matching = model.model.layers[1].self_attn
    slow = torch.arange(size) % pairs >= _SLOWEST_CONTENT_PAIR
    places = slow.nonzero()[:, 0]
    mixed = torch.arange(size)  # the older token lies across the newer one in other places, so that both can be told
    mixed[places] = places[torch.randperm(len(places), generator=generator)]
    scale = slow[:, None] * _CONTENT_SCALE
    matching.q_proj.weight[:size] = (seen + _OLDER_SHARE * one_before[mixed]) * scale
    matching.k_proj.weight[:size] = (one_before + _OLDER_SHARE * two_before[mixed]) * scale
    matching.v_proj.weight[:size] = copied
    matching.o_proj.weight[:, :size] = copied.T * embedding_scale * _COPY_SCALE

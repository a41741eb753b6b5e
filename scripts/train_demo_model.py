"""Train the demo model from nothing: tokenizer, model, evaluation, and the files of `demo_model/`.

    python scripts/train_demo_model.py --out demo_model

Reproducible: text, weights and order of batches follow from the seed. It uses two threads and no network.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from demo_corpus.batches import Batch, batches
from demo_corpus.copying_heads import wire_copying_heads
from demo_corpus.evaluation import evaluate
from demo_corpus.mixture import conversations
from demo_corpus.tokenizer import CONTEXT_TOKENS, render, train_tokenizer, twins
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

NUM_MERGED_TOKENS = 1150  # before the twins with a blank or an underscore, which make it about 2800
EMBEDDING_STD = 0.05
WARM_UP_STEPS = 40
BATCH_TOKENS, DRILL_SHARE = 4096, 0.04
# Names, numbers and tool arguments are copied from the prompt: first that, in small batches, then all the rest.
EARLY_BATCH_TOKENS, EARLY_DRILL_SHARE = 2048, 0.8


class Cycle(NamedTuple):
    """A rise and fall of the learning rate, with optimizers of its own."""

    num_drill_steps: int
    num_steps: int
    learning_rate: float
    tool_share: float


# To read an unknown tool from its schema is learnt last: the second cycle has more of it.
CYCLES = (Cycle(120, 1600, 2.5e-3, 0.5), Cycle(0, 1500, 2e-3, 0.65))


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of 3.9 million parameters with random weights, but for the copying heads."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_bias=True,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.self_attn.o_proj.bias.requires_grad_(False)  # it stays zero: nothing here needs it
    embedding = model.model.embed_tokens.weight
    torch.nn.init.normal_(embedding, std=EMBEDDING_STD)
    with torch.no_grad():  # a word with a blank before it starts as the word and a direction that all blanks share
        for pairs in twins(tokenizer):
            prefix = torch.randn(embedding.shape[1]) * EMBEDDING_STD / 2
            for word, with_prefix in pairs:
                embedding[with_prefix] = embedding[word] + prefix
    wire_copying_heads(model, torch.Generator().manual_seed(seed))
    return model


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the assistants' tokens; logits are computed for these alone."""
    wanted_BL = batch.labels_BL != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BLH = model.model(input_ids=batch.input_ids_BL, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden_BLH[wanted_BL])
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels_BL[wanted_BL])


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate(step: int, cycle: Cycle) -> float:
    """Linear warm-up, then constant, then linearly down to a hundredth over the last two fifths."""
    if step < WARM_UP_STEPS:
        return cycle.learning_rate * (step + 1) / WARM_UP_STEPS
    return cycle.learning_rate * max(0.01, min(1.0, (cycle.num_steps - step) / (0.4 * cycle.num_steps)))


def lessons(tokenizer: PreTrainedTokenizerFast, cycle: Cycle, seed: int) -> Iterator[Batch]:
    """The batches of a cycle, one for each step: at first mostly copying drills."""
    drills = batches(tokenizer, conversations(seed + 1, drill_share=EARLY_DRILL_SHARE), EARLY_BATCH_TOKENS, seed + 1)
    chats = conversations(seed + 2, drill_share=DRILL_SHARE, tool_share=cycle.tool_share)
    mixed = batches(tokenizer, chats, BATCH_TOKENS, seed + 2)
    yield from itertools.islice(drills, cycle.num_drill_steps)
    yield from itertools.islice(mixed, cycle.num_steps - cycle.num_drill_steps)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, cycle: Cycle, seed: int) -> None:
    """Run the steps of a cycle and print the loss; the model is changed in place."""
    optimizers = make_optimizers(model)
    model.train()
    began, losses, num_tokens = time.monotonic(), [], 0
    for step, batch in enumerate(lessons(tokenizer, cycle, seed)):
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, cycle)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        num_tokens += batch.input_ids_BL.numel()
        if (step + 1) % 50 == 0:
            elapsed_s = time.monotonic() - began
            mean = sum(losses[-50:]) / 50
            speed = f"{num_tokens / elapsed_s:.0f} tok/s {elapsed_s:.0f} s"
            print(f"step {step + 1}/{cycle.num_steps} loss {mean:.4f} {speed}", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights in bf16, tokenizer, template and generation defaults; other files in the folder stay."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.2,
        top_p=0.9,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learn the merges from a sample of the corpus."""
    # Rendering needs the chat template alone: a tokenizer without merges will do.
    without_merges = train_tokenizer([], 512)
    sample = itertools.islice(conversations(seed), 6000)
    return train_tokenizer((render(without_merges, conversation) for conversation in sample), NUM_MERGED_TOKENS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shorten", type=int, default=1, help="take N times fewer steps, to try the script")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(arguments.seed)
    tokenizer = make_tokenizer(arguments.seed)
    model = build_model(tokenizer, arguments.seed)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    for number, cycle in enumerate(CYCLES):
        shortened = cycle._replace(
            num_drill_steps=cycle.num_drill_steps // arguments.shorten, num_steps=cycle.num_steps // arguments.shorten
        )
        train(model, tokenizer, shortened, arguments.seed + 10 * number)
    save(model, tokenizer, arguments.out)
    evaluate(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()

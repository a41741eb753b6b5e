"""From a model's last layer to one row for each input: poolings, linear layers, a cross-encoder's activation.

Shapes: R inputs, T tokens of the longest (padding on the right), H hidden size, D numbers of a row, V vocabulary.
"""

from collections.abc import Callable

import torch
from safetensors.torch import load_file

from gpu_worker.tasks.pooling.recipe import DenseStep, PoolingMode, Recipe, RecipeError

# Row makers: hidden states or logits, how many tokens each input has, and how many of them are not pooled.
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def build_embedding_head(recipe: Recipe, device: torch.device) -> Head:
    """Everything of the recipe but the last normalisation, in float32. Reads the weights of its dense layers."""
    steps = [_build_dense(step, device) if isinstance(step, DenseStep) else _normalize for step in recipe.steps]

    def embed(hidden_RTH: torch.Tensor, lengths_R: torch.Tensor, skipped_R: torch.Tensor) -> torch.Tensor:
        hidden_RTH = hidden_RTH.float()
        rows_RD = torch.cat([pool(hidden_RTH, lengths_R, skipped_R, mode) for mode in recipe.modes], dim=-1)
        for step in steps:
            rows_RD = step(rows_RD)
        return rows_RD

    return embed


def build_scoring_head(recipe: Recipe) -> Head:
    """The activation of the one logit, which a decoder's answer is made of."""
    activation = getattr(torch.nn, recipe.activation)()
    if (tokens := recipe.answer_tokens) is None:
        return lambda logits_RD, _lengths_R, _skipped_R: activation(logits_RD.float())

    def score(logits_R1V: torch.Tensor, _lengths_R: torch.Tensor, _skipped_R: torch.Tensor) -> torch.Tensor:
        logits_RV = logits_R1V[:, -1].float()
        scores_R = logits_RV[:, tokens.yes]
        return activation(scores_R if tokens.no is None else scores_R - logits_RV[:, tokens.no])[:, None]

    return score


def pool(hidden_RTH: torch.Tensor, lengths_R: torch.Tensor, skipped_R: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """One vector for each input, of its tokens [skipped, length), as sentence-transformers defines each mode."""
    inputs_R = torch.arange(hidden_RTH.shape[0], device=hidden_RTH.device)
    if mode == "lasttoken":
        return hidden_RTH[inputs_R, lengths_R - 1]
    if mode == "cls":
        return hidden_RTH[inputs_R, torch.where(skipped_R < lengths_R, skipped_R, 0)]
    positions_T = torch.arange(hidden_RTH.shape[1], device=hidden_RTH.device)
    is_pooled_RT1 = ((positions_T >= skipped_R[:, None]) & (positions_T < lengths_R[:, None]))[..., None]
    if mode == "max":
        return hidden_RTH.masked_fill(~is_pooled_RT1, float("-inf")).amax(dim=1)
    weights_RT1 = is_pooled_RT1.float()
    if mode == "weightedmean":
        weights_RT1 = weights_RT1 * (positions_T + 1)[:, None]
    sum_RH = (hidden_RTH.masked_fill(~is_pooled_RT1, 0) * weights_RT1).sum(dim=1)
    total_R1 = weights_RT1.sum(dim=1).clamp(min=1e-9)
    return sum_RH / (total_R1.sqrt() if mode == "mean_sqrt_len_tokens" else total_R1)


def _normalize(rows_RD: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows_RD, dim=-1)


def _build_dense(step: DenseStep, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    weights = {name: tensor.to(device).float() for name, tensor in _read_weights(step).items()}
    activation = getattr(torch.nn, step.activation)()
    return lambda rows_RD: activation(
        torch.nn.functional.linear(rows_RD, weights["linear.weight"], weights.get("linear.bias"))
    )


def _read_weights(step: DenseStep) -> dict[str, torch.Tensor]:
    if (step.folder / "model.safetensors").is_file():
        weights = load_file(step.folder / "model.safetensors")
    elif (step.folder / "pytorch_model.bin").is_file():
        weights = torch.load(step.folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    else:
        weights = {}
    if "linear.weight" not in weights:
        raise RecipeError(f"Its module {step.folder.name} has no weights.")
    return weights

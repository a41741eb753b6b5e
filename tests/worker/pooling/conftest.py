"""One torch thread: the models are tiny, and waiting for a second core costs more than it gives."""

import torch

torch.set_num_threads(1)

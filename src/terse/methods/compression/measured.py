"""A compressor as a model whose activations can be captured."""

from typing import Any

from torch import Tensor, nn, ones_like

from terse.methods.compression.model import Compressor


class VectorsOfContexts(nn.Module):
    """A compressor as a model whose activations can be captured: `cloud: last_token` or `means`.

    It reads the last `n_context` of its tokens (B, T), without a BOS before them, and outputs their
    vectors (B, spans x c, E) at its module `vectors`.
    """

    def __init__(self, compressor: Compressor) -> None:
        super().__init__()
        self.compressor = compressor
        self.vectors = nn.Identity()
        self.places_out = compressor.n_vectors  # per context, whatever its length
        self.config = compressor.lm.config
        self.dtype, self.device = compressor.lm.dtype, compressor.vectors.device

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of the frozen model, as transformers does."""
        return self.compressor.lm.get_input_embeddings()

    def forward(self, input_ids: Tensor, **_options: Any) -> Tensor:
        """Return Z; a shorter context is padded in front."""
        n = self.compressor.settings.n_context
        context = input_ids[:, -n:]
        short = (n - context.shape[1], 0)
        mask = nn.functional.pad(ones_like(context), short)
        return self.vectors(self.compressor.compress(nn.functional.pad(context, short), mask))

"""The feed-forward layers of imported Conformers, whose weights are named and activated by others."""

from collections.abc import Callable

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, size: int, hidden: int, activation: Callable[[Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.first, self.second = nn.Linear(size, hidden, bias=bias), nn.Linear(hidden, size, bias=bias)

    def forward(self, values: Tensor) -> Tensor:
        """Transform [batch, time, size]; return the type of the weights."""
        return self.second(self.activation(self.first(values.to(self.first.weight.dtype))))  # type: ignore[no-any-return]

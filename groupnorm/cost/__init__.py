"""What a model costs: memory kept for the backward pass, arithmetic, and the norms' share."""

from groupnorm.cost.flops import count_flops
from groupnorm.cost.measure import measure_cost
from groupnorm.cost.saved import bytes_saved

__all__ = ["bytes_saved", "count_flops", "measure_cost"]

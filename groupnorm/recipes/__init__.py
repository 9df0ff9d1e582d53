"""Complete runs, as functions that return a RunConfig."""

from groupnorm.recipes.small_images import paper, quick, standard

__all__ = ["paper", "quick", "standard"]

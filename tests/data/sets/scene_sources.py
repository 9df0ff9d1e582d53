"""Garments and photographs, loaded once for all tests: that takes a second."""

import functools

from groupnorm.data.synthetic.sources import load_sources

cached_sources = functools.cache(load_sources)

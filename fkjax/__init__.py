"""Active learning for biased pools, by matching Fisher-kernel features."""

__version__ = "0.1.0"

"""hivis: lossless speculative decoding for vision-language models."""

from hivis.errors import HivisError
from hivis.policy import TreePolicy
from hivis.sampling import SamplingParams
from hivis.tree import DraftTree

__version__ = "0.1.0"
__all__ = ["DraftTree", "HivisError", "SamplingParams", "TreePolicy", "__version__"]

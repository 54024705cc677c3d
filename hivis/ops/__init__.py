"""The ops, typed: importing this package registers ``torch.ops.hivis.*``.

``verify`` has those of a verify pass, ``grow`` those that grow draft trees, ``reference`` one
plain-torch definition of each, and ``noise`` the shared noise in plain torch.
"""

from hivis.ops.grow import tree_grow_, tree_prune
from hivis.ops.verify import (
    build_info,
    kv_compact_,
    missing_on,
    shared_noise,
    tree_accept,
    tree_attention,
)

__all__ = [
    "build_info",
    "kv_compact_",
    "missing_on",
    "shared_noise",
    "tree_accept",
    "tree_attention",
    "tree_grow_",
    "tree_prune",
]

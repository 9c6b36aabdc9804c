"""What a dataset answers. The search by bit codes is at hand: `from tasks.query import CodeIndex`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.query.codes import CodeIndex

__all__ = ["CodeIndex"]


def __getattr__(name: str) -> Any:
    # Its kernels take a moment to import: only who searches waits for them.
    if name in __all__:
        from tasks.query.codes import CodeIndex

        return CodeIndex
    raise AttributeError(f"module 'tasks.query' has no attribute '{name}'")

"""Which licences a recipe allows: SPDX expressions against a list."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing


@cache
def _licensing() -> Any:
    return get_spdx_licensing()


def permitted(expression: str, allow: Sequence[str]) -> bool:
    """Whether an SPDX licence expression lets a file be used under one of the allowed licences.

    Of `A OR B` one must be allowed, of `A AND B` both. `A WITH E` is allowed if it is listed as such, or if `A` is:
    an exception only grants more. Identifiers are compared without regard to case (SPDX 2.3, annex D).
    What cannot be read as an expression is not permitted.
    """
    licensing = _licensing()
    try:
        tree = licensing.parse(expression)
        return tree is not None and _holds(tree, {name.lower() for name in allow}, licensing)
    except (ExpressionError, ValueError, TypeError, AttributeError, RecursionError):
        return False


def _holds(node: Any, allowed: set[str], licensing: Any) -> bool:
    if isinstance(node, licensing.OR):
        return any(_holds(part, allowed, licensing) for part in node.args)
    if isinstance(node, licensing.AND):
        return all(_holds(part, allowed, licensing) for part in node.args)
    name = str(node).lower()
    return name in allowed or name.partition(" with ")[0] in allowed

"""The one exception for things the user can mend, and the nearest name for what is misspelt."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Tells the user of bad input in one sentence: the file, the item in it, what is wrong, the way out.

    The command line prints the message without a traceback and exits with code 2.
    """


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Returns the one of ``names`` most like ``name``, whatever the case of letters, None if none is.

    ``cutoff`` is the least likeness, from 0 to 1 for equal names.
    """
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None

"""The one exception for things the user can mend."""


class UserError(Exception):
    """Tells the user of bad input in one sentence: the file, the item in it, what is wrong, the way out.

    The command line prints the message without a traceback and exits with code 2.
    """

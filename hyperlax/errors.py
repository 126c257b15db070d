"""The two ways a command can fail that are not bugs."""


class HyperlaxError(Exception):
    """A run that could not be completed; the command exits with 1."""

    exit_code = 1


class UsageError(HyperlaxError, ValueError):
    """Bad input, found before anything ran: where, what was found, what would work. Exits with 2."""

    exit_code = 2

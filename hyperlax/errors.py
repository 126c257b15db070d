"""The two ways a command can fail that are not bugs."""

FAILED, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143
STOPPED = (INTERRUPTED, TERMINATED)
"""The exit statuses of a process besides 0: could not be completed, refused before anything ran, SIGINT, SIGTERM."""


class HyperlaxError(Exception):
    """A run that could not be completed; the command exits with 1."""

    exit_code = FAILED


class UsageError(HyperlaxError, ValueError):
    """Bad input, found before anything ran: where, what was found, what would work. Exits with 2."""

    exit_code = REFUSED

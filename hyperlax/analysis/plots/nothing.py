"""A plot that has nothing to show says so in words."""

from hyperlax.errors import HyperlaxError


class NothingToShow(HyperlaxError):
    """There is no data for a plot yet; its message stands in the plot's place."""

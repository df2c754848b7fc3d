"""The one exception that speaks to a user."""

__all__ = ["RelevancyError"]


class RelevancyError(Exception):
    """A mistake in what the user gave, or a limit of the machine, in one line that says what to do."""


def shortened(value: object, longest: int = 120) -> str:
    """A user's value as a message shows it: one line, the middle left out where it is long."""
    text = " ".join(str(value).split())
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]} ({len(text):,} characters)"

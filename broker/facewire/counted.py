"""Numbers with their nouns, for people. Pure."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write `1 event`, or `1,200 events`; the plural adds an s unless it is given."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"

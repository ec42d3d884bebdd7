"""URLs as people and logs may see them: without the password. Pure."""

import re
from typing import Final

#: postgresql://USER:PASSWORD@HOST/NAME, and …?password=PASSWORD.
_PASSWORDS: Final = re.compile(r"(?<=://)([^:/@]*):[^@/]*@|(?<=[?&])(password=)[^&]*")


def without_password(text: str) -> str:
    """The text, with `***` in the place of a URL's password."""
    return _PASSWORDS.sub(lambda found: f"{found[1]}:***@" if found[2] is None else f"{found[2]}***", text)

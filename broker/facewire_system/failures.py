"""Why a system call, a socket or TLS failed, in plain words and without the names of our parts."""

import errno
import os
import re
from typing import Final

NO_TLS: Final = "it does not speak TLS"
#: OpenSSL's words for an answer that is no TLS, and for a file that does not hold what it should.
_OPENSSL_WORDS: Final = {
    "EOF occurred in violation of protocol": NO_TLS,
    "TLS/SSL connection has been closed (EOF)": NO_TLS,
    "wrong version number": NO_TLS,
    "record layer failure": NO_TLS,
    "packet length too long": NO_TLS,
    "PEM lib": "it is no PEM, or the key is encrypted",
}
#: `[SSL: NAME] words (_ssl.c:1006)`, `words (_ssl.c:992)`, or `_ssl.c:989: words`. The number of
#: such an error is OpenSSL's, not the system's.
_OPENSSL: Final = re.compile(r"(?:\[[A-Z0-9]+(?:: \w+)?\] )?(.+) \(_ssl\.c:\d+\)|_ssl\.c:\d+: (.+)")


def reason_of(exc: OSError) -> str:
    """The reason of a failure, such as `Connection refused`.

    asyncio's texts name addresses as Python writes them, and several at once; OpenSSL's name a
    line of Python's own source.
    """
    text = exc.strerror or str(exc)
    if found := _OPENSSL.match(text):
        words = (found[1] or found[2]).rstrip(".")
        return _OPENSSL_WORDS.get(words, words)
    if exc.errno is not None and exc.errno in errno.errorcode:
        return os.strerror(exc.errno)
    if several := re.findall(r"\[Errno (\d+)\]", text):
        return ", ".join(dict.fromkeys(os.strerror(int(number)) for number in several))
    return text or ("no answer" if isinstance(exc, TimeoutError) else type(exc).__name__)

import pytest

from facewire.masking import without_password, without_secrets_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@h:5432/x", "postgresql://me:***@h:5432/x"),
        ("postgresql://me:sec/ret@h/x", "postgresql://me:***@h/x"),
        ("postgresql://me:sec@ret@h/x", "postgresql://me:***@h/x"),
        ("postgresql://me:s?e=c&r@et@h/x", "postgresql://me:***@h/x"),
        ("postgresql://me:secret@", "postgresql://me:***@"),
        ("postgresql://me@h/x?a=b&password=secret&b=c", "postgresql://me@h/x?a=b&password=***"),
        ("postgresql://me@h/x?sslpassword=secret", "postgresql://me@h/x?sslpassword=***"),
        ("postgresql://h:1/x?a=b&ssl%70assword=se@cret", "postgresql://h:1/x?a=b&ssl%70assword=***"),
        ("postgresql://h/x?oauth_client_secret=secret", "postgresql://h/x?oauth_client_secret=***"),
        ("postgresql://h:5432/x?user=me", "postgresql://h:5432/x?user=me"),
        ("sqlite:////var/lib/a:b.db", "sqlite:////var/lib/a:b.db"),
    ],
)
def test_no_secret_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_an_error_message_of_others_does_not_show_the_secrets_of_a_url() -> None:
    url = "postgresql://me:se%2Fcret@h/x?sslpassword=hush%21"
    said = 'the password "se%2Fcret" is se/cret; hush! and hush%21'
    assert without_secrets_of(url, said) == 'the password "***" is ***; *** and ***'
    assert without_secrets_of("postgresql://h:5432/x", said) == said

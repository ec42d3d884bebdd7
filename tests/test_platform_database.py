"""A database that a URL names: no piece of its secrets is ever shown."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from facewire.errors import StoreError
from facewire_cli.main import cli
from facewire_platform.store.database import locate
from facewire_platform.store.writer import open_store

#: Each has three pieces; none of them may be shown.
SECRETS = [
    "Aaaa/Bbbb/Cccc",
    "Aaaa@Bbbb@Cccc",
    "Aaaa/Bbbb@Cccc",
    "Aaaa:Bbbb/Cccc",
    "Aaaa?Bbbb@Cccc",
    "Aaaa%zzBbbb Cccc",
    "Aaaa%2FBbbb%40Cccc",
]
IN_PARAMETERS = [*SECRETS, "Aaaa&Bbbb&Cccc", "Aaaa&Bbbb=Cccc", "Aaaa=Bbbb#Cccc"]
PLACES = [
    *((f"postgresql://me:{secret}@127.0.0.1:1/x", secret) for secret in SECRETS),
    *((f"postgresql://me:{secret}@127.0.0.1:1/x?sslmode=disable", secret) for secret in SECRETS),
    *((f"postgresql://me@127.0.0.1:1/x?{name}={secret}", secret) for secret in IN_PARAMETERS for name in ("password", "sslpassword")),
]


@pytest.mark.network
@pytest.mark.parametrize(("url", "secret"), PLACES, ids=[url for url, _ in PLACES])
def test_no_piece_of_a_secret_is_shown_if_the_database_cannot_be_opened(url: str, secret: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises((ValueError, StoreError)) as raised:
        open_store(locate(url))
    assert "***" in str(raised.value)
    assert [piece for piece in ("Aaaa", "Bbbb", "Cccc") if piece in str(raised.value)] == []
    done = CliRunner().invoke(cli, ["events", "--database", url])
    assert done.exit_code in {1, 2}
    assert [piece for piece in ("Aaaa", "Bbbb", "Cccc") if piece in done.output] == []


def test_a_password_that_libpq_would_cut_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"postgresql://me:\*\*\*@h/x' has a bare / or @ .*: write %2F or %40"):
        locate("postgresql://me:p/w@h/x")
    for url in ("postgresql://me:p%2Fw%40@h:5432/x?application_name=a@b", "postgres:///x", "postgresql://h1:1,h2:2/x?user=me@there"):
        assert locate(url) == url


def test_a_file_is_located_by_its_path() -> None:
    assert locate("sqlite:////var/lib/a@b/x.db") == Path("/var/lib/a@b/x.db")
    with pytest.raises(ValueError, match="neither"):
        locate("mysql://me:secret@h/x")

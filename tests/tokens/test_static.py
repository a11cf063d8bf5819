"""Static tokens: kept as hashes in a file that is never half written, and that nobody else may change."""

from __future__ import annotations

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unbroken.protocol.scopes import Principal, grant
from unbroken.tokens import TokenFile
from unbroken.tokens.static import StaticToken, TokenFileError, find_token

SCOPES = grant(read="/a/**", append="/a/b")


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "data" / "tokens.json")


def by_id(file: TokenFile) -> dict[str, StaticToken]:
    return {token.id: token for token in file.read()}


def test_made_found_and_revoked(file: TokenFile) -> None:
    assert file.read() == ()
    text, kept = file.create("nightly import", SCOPES, now_s=1000.5, expires_at=2000)
    assert re.fullmatch(r"unb_[0-9a-f]{10}_[A-Za-z0-9_-]{43}", text)
    assert file.read() == (kept,)
    assert (kept.name, kept.scope, kept.created_at, kept.expires_at) == ("nightly import", str(SCOPES), 1000, 2000)
    assert kept.principal == Principal(f"token:{kept.id}", SCOPES, 2000)
    other, other_kept = file.create("another", SCOPES, now_s=1001)
    assert other_kept.expires_at is None
    assert find_token(text, by_id(file)) == kept
    assert find_token(other, by_id(file)) == other_kept
    assert file.revoke(kept.id)
    assert file.read() == (other_kept,)
    assert find_token(text, by_id(file)) is None
    assert not file.revoke(kept.id)


def test_nothing_but_the_token_is_it(file: TokenFile) -> None:
    text, kept = file.create("a", SCOPES, now_s=0)
    other, _ = file.create("b", SCOPES, now_s=0)
    known = by_id(file)
    last = "A" if text[-1] != "A" else "B"
    for wrong in (
        *("", "unb_", kept.id, kept.hash, f"unb_{kept.id}_{kept.hash}", text[:-1], text + "A", text[:-1] + last),
        *(text.upper(), f" {text}", f"{text}\n", f"unb_{kept.id}_{other[-43:]}", other[:15] + text[15:]),
    ):
        assert find_token(wrong, known) is None, wrong


def test_no_secret_is_in_any_file(file: TokenFile) -> None:
    """Nor in any part: what is kept cannot be turned back into what is sent."""
    texts = [file.create(f"number {number}", SCOPES, now_s=0)[0] for number in range(20)]
    files = [path for path in file.path.parent.parent.rglob("*") if path.is_file()]
    assert files == [file.path]
    content = file.path.read_text()
    for text in texts:
        secret = text.split("_", 2)[2]
        assert not any(secret[at : at + 12] in content for at in range(len(secret) - 12))
    assert len({token.hash for token in file.read()}) == 20


def test_only_its_owner_may_read_it(file: TokenFile) -> None:
    _, kept = file.create("a", SCOPES, now_s=0)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o644)
    file.create("b", SCOPES, now_s=0)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600, "what is replaced is tight again"
    file.revoke(kept.id)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_change_is_not_believed(file: TokenFile, mode: int) -> None:
    file.create("a", SCOPES, now_s=0)
    file.path.chmod(mode)
    for attempt in (file.read, lambda: file.create("b", SCOPES, now_s=0), lambda: file.revoke("0123456789")):
        with pytest.raises(TokenFileError, match="chmod 600"):
            attempt()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"tokens":1}',
        '{"tokens":[{}]}',
        '{"tokens":[],"more":1}',
        '{"tokens":[],"version":2}',
        '{"tokens":[{"id":"a","name":"b","hash":"c","scope":"read:/a*","createdAt":0}]}',
        '{"tokens":[{"id":"a","name":"b","hash":"c","scope":"read:/a","createdAt":"0"}]}',
    ],
)
def test_a_damaged_file_is_told_and_kept(file: TokenFile, content: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(content)
    file.path.chmod(0o600)
    with pytest.raises(TokenFileError):
        file.read()
    with pytest.raises(TokenFileError):
        file.create("a", SCOPES, now_s=0)
    assert file.path.read_text() == content


def test_places_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(TokenFileError, match="cannot write"):
        TokenFile(tmp_path / "a file" / "tokens.json").create("a", SCOPES, now_s=0)
    (tmp_path / "folder" / "tokens.json").mkdir(parents=True)
    with pytest.raises(TokenFileError, match="cannot read"):
        TokenFile(tmp_path / "folder" / "tokens.json").read()


def test_several_writers_at_once(file: TokenFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: TokenFile(file.path).create(str(number), SCOPES, now_s=0)[1], range(40)))
    assert sorted(token.id for token in file.read()) == sorted(token.id for token in made)
    assert [path.name for path in file.path.parent.iterdir()] == ["tokens.json"]


def test_a_failure_while_writing_changes_nothing(file: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.create("a", SCOPES, now_s=0)
    before = file.path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(TokenFileError, match="No space left"):
        file.create("b", SCOPES, now_s=0)
    assert file.path.read_bytes() == before
    assert [path.name for path in file.path.parent.iterdir()] == ["tokens.json"]


def test_the_version_changes_with_the_file(file: TokenFile) -> None:
    versions = [file.version()]
    _, kept = file.create("a", SCOPES, now_s=0)
    versions.append(file.version())
    file.create("b", SCOPES, now_s=0)
    versions.append(file.version())
    file.revoke(kept.id)
    versions.append(file.version())
    assert versions[0] is None
    assert len(set(versions)) == 4


def test_the_format(file: TokenFile) -> None:
    """It is read by people too, and by later versions."""
    _, kept = file.create("a", grant(read="/a b"), now_s=5, expires_at=9)
    assert json.loads(file.path.read_text()) == {
        "tokens": [
            {"id": kept.id, "name": "a", "hash": kept.hash, "scope": "read:/a%20b", "createdAt": 5, "expiresAt": 9}
        ],
        "version": 1,
    }

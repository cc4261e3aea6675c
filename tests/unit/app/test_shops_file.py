"""The shops file is edited as a person would: one entry changes, everything else stays as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from app.errors import Misconfigured
from app.shops_file import merged, put_entry, with_entry

ENTRY = {"access_token_env": "TOKEN", "default_location_id": 5, "locations": {5: "main"}}
BLOCK = (
    "  new.shop:\n    access_token_env: TOKEN\n    default_location_id: 5\n    locations:\n      5: main\n"
)
FILE = """\
# All of our shops
shops:
  # the first one
  a.b: # its domain
    access_token: t  # inside of the entry
    locations:
      7: main
      8: store # the last line

  # the second one
  c.d: {access_token: u, locations: {9: main}}
# the end
"""


def test_a_new_entry_comes_after_the_others_and_comments_stay() -> None:
    assert with_entry(FILE, "new.shop", ENTRY) == FILE.replace("# the end\n", f"{BLOCK}# the end\n")


def test_a_changed_entry_takes_the_place_of_the_old_one() -> None:
    first = with_entry(FILE, "a.b", ENTRY)
    assert first == FILE.replace(
        FILE[FILE.index("  a.b:") : FILE.index("\n  # the second")], BLOCK.replace("new.shop", "a.b")
    )
    second = with_entry(FILE, "c.d", ENTRY)
    assert second == FILE.replace(
        "  c.d: {access_token: u, locations: {9: main}}\n", BLOCK.replace("new.shop", "c.d")
    )


@pytest.mark.parametrize("text", ["shops:\n", "shops:", "shops: {}\n", "# c\nshops: {} # none yet\n"])
def test_an_empty_file_gets_its_first_entry(text: str) -> None:
    after = with_entry(text, "new.shop", ENTRY)
    assert yaml.safe_load(after) == {"shops": {"new.shop": ENTRY}}
    assert BLOCK in after


@pytest.mark.parametrize(
    "text",
    ["shops:\n  a.b:\n    access_token: |\n      t", "shops:\n a.b:\n  x: 1\nother: 2\n", "shops:\n- a\n"],
)
def test_other_ways_to_write_yaml_are_kept_or_refused(text: str) -> None:
    try:
        after = with_entry(text, "new.shop", ENTRY)
    except ValueError:
        return
    before = yaml.safe_load(text)
    assert yaml.safe_load(after) == {**before, "shops": {**before["shops"], "new.shop": ENTRY}}


def test_what_cannot_be_edited_without_loss_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shops.yaml"
    path.write_text("shops: {a.b: {access_token: t}}\n")
    with pytest.raises(Misconfigured, match=r"shops\.yaml: .*by hand"):
        put_entry(path, "new.shop", ENTRY)
    assert path.read_text() == "shops: {a.b: {access_token: t}}\n"
    path.write_text("{")
    with pytest.raises(Misconfigured, match="is not YAML"):
        put_entry(path, "new.shop", ENTRY)


def test_the_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "shops.yaml"
    put_entry(path, "new.shop", ENTRY)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    put_entry(path, "new.shop", {**ENTRY, "shadow": True})
    assert path.stat().st_mode & 0o777 == 0o640
    assert yaml.safe_load(path.read_text())["shops"]["new.shop"]["shadow"] is True
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(Misconfigured, match="cannot be written"):
        put_entry(tmp_path / "none" / "shops.yaml", "new.shop", ENTRY)


TOKEN = {"access_token": "t"}
APP = {"client_id": "i", "client_secret": "s"}


@pytest.mark.parametrize(
    ("known", "changes", "kept"),
    [
        ({**TOKEN, "shadow": True}, {"access_token_env": "T"}, {"shadow": True}),
        (TOKEN, {"client_id": "i", "client_secret_env": "S"}, {}),
        (APP, {"client_secret_file": "f"}, {"client_id": "i"}),
        (APP, {"access_token_file": "f"}, {}),
        ({"webhook_secrets": ["a"]}, {"webhook_secret_env": "W"}, {}),
        ({"locations": {1: "a"}}, {"locations": {2: "b"}}, {}),
    ],
)
def test_a_secret_in_another_form_replaces_the_one_that_was_there(
    known: dict[str, object], changes: dict[str, object], kept: dict[str, object]
) -> None:
    assert merged(known, changes) == {**kept, **changes}

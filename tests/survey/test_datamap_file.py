"""The data map's file: read with errors by line, written so that it reads back equal."""

from __future__ import annotations

from pathlib import Path
import re

import pytest
from tests.samples import EXAMPLES

from domicile.model.datamap import Role, SharedPolicy
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import TableName
from domicile.survey.datamap_file import dump, load, parse

GOOD = """\
# a shop
version: 1
dataset: shop
subject:
  table: store.user_account
  key: id
  market: |-
    (select m.code -- a comment stays one line
       from store.market m where m.id = subject.market_id)
tables:
  store.user_account: {role: subject, personal: [email, no]}
  store."Wishlist": {role: owned, owner: 'user_id -> store.user_account(id)'}
  store.item:
    role: owned
    owner: order_id, line -> store."Order Line"("order id", "line, no")
    references: [inviter_id -> store.user_account(id)]
  store."Order Line": {role: owned, owner: "user_id -> store.user_account(id)", object_keys: [scan]}
  store.address: {role: owned, owner: "id <- store.user_account(address_id)"}
  store.company: {role: shared, policy: refuse}
  country: {role: reference}
  store.log: {role: local}
  store.odd: {role: undecided}
"""


def test_good() -> None:
    data_map = parse(GOOD)
    assert data_map.dataset == "shop"
    assert data_map.subject.key == "id"
    item = data_map.tables[TableName("store", "item")]
    assert item.owner is not None
    assert item.owner.to_table == TableName("store", "Order Line")
    assert item.owner.to_columns == ("order id", "line, no")
    assert [str(s.to_table) for s in data_map.path(item.table)] == ['store."Order Line"', "store.user_account"]
    assert data_map.tables[TableName("public", "country")].role is Role.REFERENCE
    assert data_map.tables[TableName("store", "company")].policy is SharedPolicy.REFUSE
    assert data_map.tables[TableName("store", "user_account")].personal == ("email", "no")  # not a truth value
    assert data_map.line_of[TableName("store", "item")] == 13


@pytest.mark.parametrize("name", ["pagila", "chinook"])
def test_examples_read_back(name: str) -> None:
    data_map = load(EXAMPLES / f"{name}.map.yaml")
    assert parse(dump(data_map)) == data_map


def test_dump_reads_back_equal() -> None:
    data_map = parse(GOOD)
    text = dump(data_map, {TableName("store", "item"): ["why", "# and: why"]}, ["a header"])
    assert parse(text) == data_map
    assert "  # why\n" in text


def test_digest_is_of_the_meaning() -> None:
    again = GOOD.replace("# a shop\n", "").replace("[email, no]", "[no, email]").replace("      from", "   from")
    assert parse(again).digest == parse(GOOD).digest
    for change in (("role: local", "role: reference"), ("key: id", "key: uid"), ("policy: refuse", "policy: present")):
        assert parse(GOOD.replace(*change)).digest != parse(GOOD).digest


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "empty"),
        ("version: [1", 1, "not YAML"),
        ("- a list", 1, "must be a mapping"),
        (changed("version: 1", "version: 2"), 2, "version 2 is not known"),
        (changed("dataset: shop\n", ""), 2, "lacks 'dataset'"),
        (changed("  key: id", "  kez: id"), 6, "subject knows no 'kez'"),
        (changed("role: local", "rolle: local"), 21, "knows no 'rolle'"),
        (changed("role: local", "role: lokal"), 21, "'lokal' is no role"),
        (changed("store.log:", "store..log:"), 21, "not a table name"),
        (changed("store.log:", "store.odd:"), 22, "comes twice"),
        (changed("  country:", "  store.log:"), 21, "comes twice"),
        (changed("{role: shared, policy: refuse}", "{role: shared}"), 19, "lacks 'policy'"),
        (changed("{role: local}", "{role: local, policy: present}"), 21, "has a policy"),
        (changed("{role: reference}", '{role: reference, owner: "a -> b(c)"}'), 20, "has an owner"),
        (changed("id <- store.user_account(address_id)", "address_id"), 18, "not an owner step"),
        (changed("order_id, line ->", "order_id ->"), 15, "1 columns against 2"),
        (changed("[inviter_id -> ", "[inviter_id <- "), 16, "write -> and not <-"),
        (changed("[inviter_id -> store.user_account(id)]", "inviter_id"), 16, "must be a list"),
        (changed("[email, no]", "[email, email]"), 11, "names something twice"),
        (changed("{role: subject,", "{role: reference,"), 5, "with role subject are: none"),
        (changed("  country: {role: reference}", "  country: {role: subject}"), 5, "public.country, store.user"),
        (changed('  store."Order Line": {role: owned', '  store.other: {role: owned'), 13, "not in the data map"),
        (changed("id <- store.user_account(address_id)", "id -> store.log(id)"), 18, "whose role is local"),
        (changed("id <- store.user_account(address_id)", "id -> store.address(id)"), 18, "runs in a circle"),
        (changed("personal: [email, no]", "personal: {email: x}"), 11, "must be a list"),
        (changed("dataset: shop", "dataset: {}"), 3, "dataset must be a text"),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, line: int, said: str) -> None:
    with pytest.raises(DomicileError, match=re.escape(said)) as caught:
        parse(text, "shop.map.yaml")
    error = caught.value
    assert error.code is ErrorCode.MAP_INVALID
    assert error.message.startswith(f"shop.map.yaml:{line}: "), error.message
    assert error.facts == {"file": "shop.map.yaml", "line": line}
    assert error.hint


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(DomicileError) as caught:
        parse(changed("object_keys:", "object_key:"))
    assert "'object_keys'" in caught.value.hint


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DomicileError, match="no such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DomicileError, match="cannot be read"):
        load(tmp_path / "bad.yaml")

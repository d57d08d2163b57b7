"""Fideslang datasets in and out: nothing is lost between two of our own, and of others' files it is said what is."""

from __future__ import annotations

import re

import pytest
from tests.samples import chinook_map, pagila_map
import yaml

from domicile.model.categories import CATEGORIES, FIDESLANG, OWN, nearest
from domicile.model.datamap import DataMap, Role
from domicile.model.errors import DomicileError
from domicile.model.schema import TableName
from domicile.survey.datamap_file import parse
from domicile.survey.fides import Wanted, to_map
from domicile.survey.fides_text import from_map

RICH = """\
version: 1
dataset: shop
subject: {table: store.user_account, key: id, market: subject.market}
tables:
  store.user_account:
    role: subject
    personal:
      email: user.contact.email
      imei: [user.device.imei, user.device.device_id]
    not_personal: [shade, market]
    identities: {email: email}
  store.orders:
    role: owned
    owner: user_id -> store.user_account(id)
    personal: {note: user.content}
    not_personal: [state]
    references: ['shop_id, kind -> ref.shop(id, kind)']
  store.address: {role: owned, owner: id <- store.user_account(address_id), personal: [street], object_keys: [scan]}
  store.company: {role: shared, policy: refuse, not_personal: all_others}
  ref.shop: {role: reference, not_personal: []}
  store.log: {role: local}
"""


def same(one: DataMap, other: DataMap) -> bool:
    """Equal but for the order of columns, which fideslang sorts."""
    return (one.digest, one.dataset, one.subject) == (other.digest, other.dataset, other.subject) and {
        n: (sorted(r.not_personal or ()), r.not_personal is None, r.others_not_personal) for n, r in one.tables.items()
    } == {
        n: (sorted(r.not_personal or ()), r.not_personal is None, r.others_not_personal)
        for n, r in other.tables.items()
    }


@pytest.mark.parametrize("data_map", [parse(RICH), pagila_map(), chinook_map()], ids=["rich", "pagila", "chinook"])
def test_ours_comes_back_as_it_was(data_map: DataMap) -> None:
    made = from_map(data_map)
    again = to_map(made.text, "shop.fides.yml", Wanted())
    assert not again.lost
    assert same(again.data_map, data_map)
    assert same(parse(again.text), data_map)
    assert from_map(again.data_map).text == made.text


def test_export_is_fideslang() -> None:
    document = yaml.safe_load(from_map(parse(RICH)).text)
    assert [d["fides_key"] for d in document["dataset"]] == ["shop_ref", "shop_store"]
    assert [c["fides_key"] for c in document["data_category"]] == ["user.device.imei"]
    store = {c["name"]: {f["name"]: f for f in c["fields"]} for c in document["dataset"][1]["collections"]}
    assert store["user_account"]["email"] == {
        "name": "email", "data_categories": ["user.contact.email"], "fides_meta": {"identity": "email"},
    }  # fmt: skip
    assert store["orders"]["user_id"]["fides_meta"]["references"] == [
        {"dataset": "shop_store", "field": "user_account.id", "direction": "from"}
    ]
    assert store["orders"]["state"]["data_categories"] == ["system.operations"]
    assert {f["name"] for c in store.values() for f in c.values()} >= {"street", "scan", "note"}


THEIRS = """\
data_category:
  - {fides_key: user.contact.fancy, parent_key: user.contact, name: Fancy}
dataset:
  - fides_key: crm
    organization_fides_key: default_organization
    name: CRM
    description: Everybody
    meta: null
    fides_meta: {namespace: {schema: crm, database_name: main}}
    collections:
      - name: customer
        data_categories: [system.operations]
        fields:
          - {name: id, data_categories: [user.unique_id], fides_meta: {primary_key: true, data_type: integer}}
          - name: email
            data_categories: [user.contact.email]
            fides_meta: {identity: email, length: 40}
          - {name: created_at}
          - {name: odd, data_categories: [user.contact.fancy]}
          - name: address_id
            fides_meta: {references: [{dataset: crm, field: address.id, direction: to}]}
      - name: address
        description: Where they live
        fields:
          - {name: id, fides_meta: {primary_key: true}}
          - {name: place, fields: [{name: street, data_categories: [user.contact.address.street]}]}
      - name: orders
        fides_meta: {after: [crm.customer]}
        fields:
          - {name: id, data_categories: [system.operations]}
          - name: customer_id
            fides_meta: {references: [{dataset: crm, field: customer.id, direction: from}]}
          - name: product
            fides_meta: {references: [{dataset: other, field: product.id}]}
      - {name: setting, fields: [{name: key, data_categories: [system.authentication]}]}
"""


def test_theirs_becomes_a_map_and_what_is_lost_is_said() -> None:
    made = to_map(THEIRS, "crm.yml", Wanted())
    rules = {n.name: r for n, r in made.data_map.tables.items()}
    assert made.data_map.subject.table == TableName("crm", "customer")
    assert made.data_map.subject.key == "id"
    assert rules["customer"].identities == {"email": "email"}
    assert rules["customer"].categories["odd"] == ("user.contact",)
    assert rules["customer"].not_personal == ("created_at", "address_id")
    assert str(rules["orders"].owner) == "customer_id -> crm.customer(id)"
    assert str(rules["address"].owner) == "id <- crm.customer(address_id)"
    assert rules["address"].categories == {"place": ("user.contact.address.street",)}
    assert made.undecided == (TableName("crm", "setting"),)
    assert parse(made.text) == made.data_map
    lost = "\n".join(made.lost)
    for said in (
        "description of dataset (1 times, first in line 7)", "database_name of namespace", "length of fides_meta",
        "data_type of", "description of collection", "after of fides_meta of collection", "fields within a field",
        "reference to other.product", "category user.contact.fancy", "category system.authentication",
    ):  # fmt: skip
        assert said in lost, said
    assert "organization" not in lost, "the default says nothing"


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("user.contact.email]", "user.contact.mail]"), 16, "'user.contact.mail' is no category"),
        (("identity: email, ", ""), 1, "the subject table is not clear"),
        (("primary_key: true, data_type", "data_type"), 1, "no field that is its one primary key"),
        (("field: customer.id", "field: customer"), 32, "written: collection.field"),
        (("name: orders", "name: address"), 27, "comes twice"),
        (("dataset:\n  - fides_key", "data_sets:\n  - fides_key"), 1, "no dataset"),
    ],
)
def test_errors_name_the_line(change: tuple[str, str], line: int, said: str) -> None:
    assert change[0] in THEIRS
    with pytest.raises(DomicileError, match=re.escape(said)) as caught:
        to_map(THEIRS.replace(*change), "crm.yml", Wanted())
    assert caught.value.message.startswith(f"crm.yml:{line}: ")


def test_the_operator_names_the_subject() -> None:
    wanted = Wanted("crm.customer", "email")
    subject = to_map(THEIRS.replace("identity: email, ", ""), "crm.yml", wanted).data_map.subject
    assert (str(subject.table), subject.key) == ("crm.customer", "email")


def test_categories() -> None:
    assert all(key.rpartition(".")[0] in CATEGORIES for key in CATEGORIES - {"user"}), "each has its parent"
    assert not FIDESLANG & OWN.keys()
    assert {key.rpartition(".")[0] for key in OWN} <= FIDESLANG
    assert nearest("user.contact.mail") == "user.contact.email"
    assert nearest("user.provided.identifiable.contact.email") == "user.contact.email"
    assert nearest("zzzzzz") == ""
    assert Role.SUBJECT == "subject"

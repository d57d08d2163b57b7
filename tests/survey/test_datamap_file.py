"""The data map's file: read with errors by line, written so that it reads back equal."""

from __future__ import annotations

from itertools import pairwise
import json
from pathlib import Path
import re

from jsonschema import Draft202012Validator
import pytest
from tests.samples import EXAMPLES
import yaml

from domicile.model.datamap import PartyPolicy, Role, SharedPolicy
from domicile.model.errors import DomicileError, ErrorCode
from domicile.model.schema import Reference, TableName
from domicile.survey.datamap_file import SIZE_MAX, dump, load, parse
from domicile.survey.datamap_keys import SCHEMA_NAME, json_schema, json_schema_text
from domicile.survey.datamap_text import WIDTH, list_lines

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


def test_the_draft_of_a_large_database_is_no_larger_than_a_map_may_be() -> None:
    """10,000 tables make five million characters (`benchmarks.survey --scale`); comments count."""
    assert SIZE_MAX >= 4 * 5_000_000
    read = parse("# " + "about 40 rows, 0.0 MB\n# " * 100_000 + "\n" + GOOD)
    assert read.tables == parse(GOOD).tables


def test_dump_reads_back_equal() -> None:
    data_map = parse(GOOD)
    text = dump(data_map, {TableName("store", "item"): ["why", "# and: why"]}, ["a header"])
    assert parse(text) == data_map
    assert "  # why\n" in text


def test_a_line_break_in_a_name_does_not_end_a_comment() -> None:
    data_map = parse(GOOD)
    text = dump(data_map, {TableName("store", "item"): ["odd\nversion: 7\x0b"]}, ["a\rb"])
    assert parse(text) == data_map


def test_digest_is_of_the_meaning() -> None:
    again = GOOD.replace("# a shop\n", "").replace("[email, no]", "[no, email]").replace("      from", "   from")
    assert parse(again).digest == parse(GOOD).digest
    for change in (("role: local", "role: reference"), ("key: id", "key: uid"), ("policy: refuse", "policy: present")):
        assert parse(GOOD.replace(*change)).digest != parse(GOOD).digest


PARTIES = GOOD.replace(
    "store.log: {role: local}",
    """store.message:
    role: owned
    owner: sender_id -> store.user_account(id)
    parties: {recipient_id -> store.user_account(id): stub, '"Copied To" -> store.user_account(id)': refuse}""",
)


def test_parties_have_policies() -> None:
    data_map = parse(PARTIES)
    user = TableName("store", "user_account")
    message = TableName("store", "message")
    told = {
        column: data_map.policy_of(Reference(message, (column,), user, ("id",)))
        for column in ("recipient_id", "Copied To", "sender_id")
    }
    assert told == {
        "recipient_id": PartyPolicy.STUB,
        "Copied To": PartyPolicy.REFUSE,
        "sender_id": PartyPolicy.REFUSE,
    }
    assert parse(dump(data_map)) == data_map
    assert data_map.digest != parse(PARTIES.replace(": stub", ": refuse")).digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{recipient_id -> store.user_account(id): stub",
            "{'a, b -> store.user_account(id, no)': null",
            "a reference of several columns is not set to null",
        ),
        (
            "{recipient_id -> store.user_account(id): stub",
            "{sender_id -> store.company(id): null",
            "sender_id is a part of the way to the owner",
        ),
        (": stub", ": copy", "policy copy is not carried by this version"),
        (": stub", ": stab", "'stab' is no policy"),
        ("recipient_id ->", "recipient_id <-", "write -> and not <-"),
        ("{recipient_id ->", "{sender_id ->", "this is the table's owner"),
        ("country: {role: reference}", "country: {role: reference, parties: {a -> b(c): stub}}", "tables that move"),
    ],
)
def test_what_is_no_policy_of_a_party_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(DomicileError) as refused:
        parse(PARTIES.replace(old, new, 1))
    assert refused.value.code is ErrorCode.MAP_INVALID
    assert said in refused.value.message


@pytest.mark.parametrize("written", ["null", "'null'", '"null"'])
def test_a_party_may_be_set_to_null(written: str) -> None:
    text = PARTIES.replace(": stub", f": {written}")
    data_map = parse(text)
    reference = Reference(TableName("store", "message"), ("recipient_id",), TableName("store", "user_account"), ("id",))
    assert data_map.policy_of(reference) is PartyPolicy.NULL
    assert parse(dump(data_map)) == data_map
    Draft202012Validator(json_schema()).validate(yaml.safe_load(text))


def test_the_line_of_what_cannot_be_null_is_named() -> None:
    with pytest.raises(DomicileError) as refused:
        parse(PARTIES.replace("{recipient_id -> store.user_account(id): stub", "{'a, b -> store.x(c, d)': null"))
    assert (
        refused.value.facts["line"]
        == PARTIES.splitlines().index(next(x for x in PARTIES.splitlines() if "parties" in x)) + 1
    )


def test_copied_tables_are_told() -> None:
    data_map = parse(changed("policy: refuse", "policy: copy, personal: [], not_personal: all_others"))
    company = TableName("store", "company")
    assert data_map.tables[company].policy is SharedPolicy.COPY
    assert data_map.copied() == (company,)
    assert data_map.written() == (*data_map.in_scope(), company)
    assert company in parse(dump(data_map)).copied()


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
        (changed("policy: refuse", "policy: copy"), 19, "has the policy copy, but lacks 'not_personal'"),
        (changed("policy: refuse", "policy: copied"), 19, "'copied' is no policy"),
        (changed("{role: local}", "{role: local, policy: present}"), 21, "has a policy"),
        (changed("{role: reference}", '{role: reference, owner: "a -> b(c)"}'), 20, "has an owner"),
        (changed("id <- store.user_account(address_id)", "address_id"), 18, "not an owner step"),
        (changed("(address_id)", "(address_id) where kind = 'home'"), 18, "a condition, or a choice of steps"),
        (changed('"id <- store.user_account(address_id)"', "[a -> b(c), d -> e(f)]"), 18, "a choice of steps"),
        (changed('"id <- store.user_account(address_id)"', "{home: a -> b(c)}"), 18, "a choice of steps"),
        (changed("id <- store.", "doc ->> 'user' -> store."), 18, "an owner in a JSON document: a survey finds keys"),
        (changed("id <- store.", "doc->'user'->'id' -> store."), 18, "an owner in a JSON document"),
        (changed("id <- store.", "(doc #>> '{user,id}')::bigint -> store."), 18, "an owner in a JSON document"),
        (changed("id <- store.", "(doc::jsonb) -> store."), 18, "an owner in a JSON document"),
        (changed("id <- store.", "unnest(ids) -> store."), 18, "an owner in an array: a survey finds keys there"),
        (changed("id <- store.", "any (ids) -> store."), 18, "an owner in an array"),
        (changed("(address_id)", "(address_id) where doc ->> 'kind' = 'home'"), 18, "a condition, or a choice"),
        (changed("order_id, line ->", "order_id ->"), 15, "1 columns against 2"),
        (changed("[inviter_id -> ", "[inviter_id <- "), 16, "write -> and not <-"),
        (changed("[inviter_id -> store.user_account(id)]", "inviter_id"), 16, "must be a list"),
        (changed("[email, no]", "[email, email]"), 11, "names something twice"),
        (changed("{role: subject,", "{role: reference,"), 5, "with role subject are: none"),
        (changed("  country: {role: reference}", "  country: {role: subject}"), 5, "public.country, store.user"),
        (changed('  store."Order Line": {role: owned', '  store.other: {role: owned'), 13, "not in the data map"),
        (changed("id <- store.user_account(address_id)", "id -> store.log(id)"), 18, "whose role is local"),
        (changed("id <- store.user_account(address_id)", "id -> store.address(id)"), 18, "runs in a circle"),
        (changed("personal: [email, no]", "personal: email"), 11, "a list of columns, or a mapping"),
        (changed("[email, no]", "{email: user.contact.mail}"), 11, "'user.contact.mail' is no category"),
        (changed("[email, no]", "{email: [user, usr]}"), 11, "'usr' is no category"),
        (changed("[email, no]", "{email: []}"), 11, "a personal column has a category"),
        (changed("[email, no]", "{email: system.operations}"), 11, "'system.operations' is no category"),
        (changed("[email, no]", "{email: user, email: user}"), 11, "comes twice"),
        (changed("[email, no]", "[email], not_personal: [email]"), 11, "under personal and under not_personal"),
        (changed("[email, no]", "[email], not_personal: everything"), 11, "or the word all_others"),
        (changed("[email, no]", "[email], identities: [email]"), 11, "identities must be a mapping"),
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


def test_an_owner_in_an_array_needs_a_column() -> None:
    with pytest.raises(DomicileError) as caught:
        parse(changed("id <- store.user_account(address_id)", "unnest(ids) -> store.user_account(id)"))
    assert "docs/how-to/finish-the-map.md, step 3" in caught.value.hint


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(DomicileError) as caught:
        parse(changed("object_keys:", "object_key:"))
    assert "'object_keys'" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("user.contact.mail", "Did you mean 'user.contact.email'?"),
        ("imei", "Did you mean 'user.device.imei'?"),
        ("system.operations", "list it under not_personal"),
        ("qqqq", "Write: user, where none fits better."),
    ],
)
def test_an_unknown_category_gets_the_nearest(text: str, hint: str) -> None:
    with pytest.raises(DomicileError) as caught:
        parse(changed("[email, no]", f"{{email: {text}}}"))
    assert hint in caught.value.hint


COPIED = changed("policy: refuse", "policy: copy, personal: [], not_personal: [name]")
CLASSIFIED = changed(
    "personal: [email, no]",
    "personal: {email: user.contact.email, no: [user, user.device.imei]}, not_personal: [shade],"
    " identities: {email: email}",
).replace("role: local", "role: local, not_personal: all_others")


def test_columns_with_their_categories() -> None:
    data_map = parse(CLASSIFIED)
    rule = data_map.tables[TableName("store", "user_account")]
    assert rule.personal == ("email", "no")
    assert rule.categories == {"email": ("user.contact.email",), "no": ("user", "user.device.imei")}
    assert [rule.is_classified(c) for c in ("email", "shade", "fresh")] == [True, True, False]
    log = data_map.tables[TableName("store", "log")]
    assert log.is_classified("whatever")
    assert data_map.tables[TableName("store", "odd")].is_classified("whatever"), "nobody has said"
    assert parse(dump(data_map)) == data_map


def test_the_digest_knows_categories_and_not_what_is_not_personal() -> None:
    assert parse(CLASSIFIED).digest != parse(GOOD).digest
    assert parse(CLASSIFIED.replace("[shade]", "[shade, tint]")).digest == parse(CLASSIFIED).digest
    assert parse(CLASSIFIED.replace("user.contact.email", "user.contact")).digest != parse(CLASSIFIED).digest


def test_lists_are_filled_so_that_a_new_name_changes_the_last_line() -> None:
    names = [f"column_{n:03d}" for n in range(60)]
    made = [list_lines("not_personal", names[:end]) for end in range(1, 60)]
    for shorter, longer in pairwise(made):
        assert longer[: len(shorter) - 1] == shorter[:-1]
        assert all(len(line) <= WIDTH + 1 for line in longer)


def test_the_committed_schema_is_current_and_valid() -> None:
    committed = (EXAMPLES.parent / "schemas" / SCHEMA_NAME).read_text(encoding="utf-8")
    assert committed == json_schema_text(), "write it again: domicile map schema"
    Draft202012Validator.check_schema(json.loads(committed))


@pytest.mark.parametrize(
    "text",
    [GOOD, COPIED, CLASSIFIED, PARTIES, dump(parse(PARTIES))],
    ids=["good", "copied", "classified", "parties", "dump"],
)
def test_the_schema_takes_what_the_program_takes(text: str) -> None:
    Draft202012Validator(json_schema()).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("role: local", "rolle: local"),
        ("role: local", "role: lokal"),
        ("{role: shared, policy: refuse}", "{role: shared}"),
        ("{role: shared, policy: refuse}", "{role: shared, policy: copy}"),
        ("{role: reference}", '{role: reference, owner: "a -> b(c)"}'),
        ("user.contact.email", "user.contact.mail"),
        ("all_others", "everything"),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(old: str, new: str) -> None:
    assert old in CLASSIFIED
    changed_text = CLASSIFIED.replace(old, new)
    assert not Draft202012Validator(json_schema()).is_valid(yaml.safe_load(changed_text))
    with pytest.raises(DomicileError):
        parse(changed_text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DomicileError, match="no such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DomicileError, match="cannot be read"):
        load(tmp_path / "bad.yaml")

"""domicile.yaml: what it means, every error it can have, and that no secret leaves it."""

from __future__ import annotations

from pathlib import Path
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
import pytest

from domicile.model.errors import EXIT_USAGE, DomicileError, ErrorCode
from domicile.model.plan import Limits
from domicile.model.workspace import Workspace
from domicile.settings import load, secrets_of

SECRET = "hunter2hunter2"
GOOD = """\
version: 1
sites:
  beijing:
    jurisdiction: CN
    conninfo: host=a port=1 user=u
  singapore:
    jurisdiction: SG
    conninfo: host=b port=2 user=u password=${PW}
datasets:
  store:
    map: store.map.yaml
    dbname: store
    at: [beijing, singapore]
"""


def read(folder: Path, text: str | bytes, environ: dict[str, str] | None = None) -> Workspace:
    path = folder / "domicile.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, {"PW": SECRET} if environ is None else environ)


def refusal(folder: Path, text: str | bytes, environ: dict[str, str] | None = None) -> DomicileError:
    with pytest.raises(DomicileError) as caught:
        read(folder, text, environ)
    error = caught.value
    assert error.code is ErrorCode.CONFIG_INVALID
    assert error.exit_code == EXIT_USAGE
    assert error.safe
    assert error.hint
    assert SECRET not in repr(error.as_dict()) + str(error)
    return error


def test_a_good_file(tmp_path: Path) -> None:
    workspace = read(tmp_path, GOOD)
    assert {name: s.jurisdiction for name, s in workspace.sites.items()} == {"beijing": "CN", "singapore": "SG"}
    assert conninfo_to_dict(workspace.conninfo("store", "singapore")) == {
        "host": "b",
        "port": "2",
        "user": "u",
        "password": SECRET,
        "dbname": "store",
    }
    assert workspace.control == "embedded"
    assert workspace.state_dir == tmp_path / ".domicile"
    assert workspace.base_dir == tmp_path
    assert workspace.limits == Limits()
    assert SECRET not in repr(workspace)
    assert secrets_of(workspace, {"PGPASSWORD": "from libpq"}) == {SECRET, "from libpq"}


def test_parts_are_merged_the_nearest_wins(tmp_path: Path) -> None:
    override = GOOD.replace("[beijing, singapore]", "\n      beijing: host=c dbname=shop\n      singapore:")
    workspace = read(tmp_path, override.replace("version: 1", "version: 1\ncontrol: host=k password=${PW}\nstate: s"))
    assert conninfo_to_dict(workspace.conninfo("store", "beijing"))["host"] == "c"
    assert conninfo_to_dict(workspace.conninfo("store", "beijing"))["dbname"] == "shop"
    assert conninfo_to_dict(workspace.conninfo("store", "singapore"))["dbname"] == "store"
    assert conninfo_to_dict(workspace.control) == {"host": "k", "password": SECRET}
    assert workspace.state_dir == tmp_path / "s"


def test_state_given_from_outside_wins(tmp_path: Path) -> None:
    (tmp_path / "domicile.yaml").write_text(GOOD)
    assert load(tmp_path / "domicile.yaml", {"PW": "x"}, state=tmp_path / "t").state_dir == tmp_path / "t"


def test_plain_words_are_text(tmp_path: Path) -> None:
    """In YAML 1.1, NO is false and 12:30 is 750."""
    text = GOOD.replace("CN", "NO").replace("jurisdiction: SG", "jurisdiction: SG\n    provider: 12:30")
    sites = read(tmp_path, text).sites.values()
    assert [(s.jurisdiction, s.provider) for s in sites] == [("NO", ""), ("SG", "12:30")]


def test_limits(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD + "limits: {streams: 4, wave_seconds_max: 7}").limits == Limits(
        streams=4, wave_seconds_max=7
    )


def test_the_digest_is_the_meaning_without_secrets(tmp_path: Path) -> None:
    digest = read(tmp_path, GOOD).config_digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    same = (
        (GOOD, {"PW": "another password"}),
        ("# a comment\n" + GOOD, None),
        (GOOD.replace("jurisdiction: CN", "jurisdiction: CN\n    description: the first site"), None),
        (GOOD + "state: elsewhere\n", None),
        (GOOD.replace("host=a port=1 user=u", "postgresql://u@a:1/"), None),
        (GOOD.replace("[beijing, singapore]", "[singapore, beijing]"), None),
    )
    other = (
        GOOD.replace("host=a", "host=c"),
        GOOD.replace("CN", "HK"),
        GOOD.replace("store.map", "shop.map"),
        GOOD + "limits: {streams: 5}\n",
        GOOD + "control: host=k\n",
    )
    assert {read(tmp_path, text, env).config_digest for text, env in same} == {digest}
    assert len({digest, *(read(tmp_path, text).config_digest for text in other)}) == len(other) + 1


NOT_LIBPQ = "8:15: sites.singapore.conninfo: not a libpq connection string"
IN_A_URL = (
    "8:15: sites.singapore.conninfo: in a URL, write @ in a password as %40 and / as %2F, or take it from ${A_VARIABLE}"
)
AT = "[beijing, singapore]"
BAD = {
    "empty": ("", "1:1: the file is empty; it starts with: version: 1"),
    "list": ("- a", "1:1: the file is not a mapping; it starts with: version: 1"),
    "yaml": ("a: [b", "1:6: not YAML: expected ',' or ']', but got '<stream end>'"),
    "tab": ("a:\n\tb: c", "2:1: not YAML: found character ... that cannot start any token"),
    "alias": (f"a: *{SECRET}", "1:4: not YAML: found undefined alias ..."),
    "control character": ("a: \x01", "1:1: not YAML: it holds characters that YAML forbids"),
    "not utf-8": (GOOD.encode() + b"# \xff", "14:1: not UTF-8 text"),
    "large": ("#" * 200_001, "1:1: larger than 200000 bytes: not a configuration"),
    "circle": ("a: &a [*a]", "1:4: nested deeper than 20 levels"),
    "deep": ("a: " + "[" * 3_000, "1:24: not YAML: nested deeper than 20 levels"),
    "key twice": (GOOD + "version: 1", "14:1: the key version is given twice"),
    "key of half a character": (GOOD + '"\\ud800": {}', "14:1: a key holds characters that no text may hold"),
    "key no text": (GOOD + "? [a]\n: b", "14:3: a key must be text"),
    "no version": (GOOD[11:], "1:1: the file has no version"),
    "other version": (GOOD.replace("version: 1", "version: 2"), "1:10: version: must be 1"),
    "unknown key": (GOOD + "dataset: {}", "14:1: unknown key dataset in the file; did you mean datasets?"),
    "unknown site key": (
        GOOD.replace("jurisdiction: CN", "jurisdiction: CN\n    conn_info: x"),
        "5:5: unknown key conn_info in sites.beijing; did you mean conninfo?",
    ),
    "unknown limit": (
        GOOD + "limits: {wave_rows: 3}",
        "14:10: unknown key wave_rows in limits; did you mean wave_rows_max?",
    ),
    "unknown key, nothing near": (GOOD + "zzz: 1", "14:1: unknown key zzz in the file"),
    "no jurisdiction": (GOOD.replace("    jurisdiction: CN\n", ""), "3:3: sites.beijing has no jurisdiction"),
    "empty jurisdiction": (
        GOOD.replace(" CN", ' ""'),
        "4:19: sites.beijing.jurisdiction: String should have at least 1 character",
    ),
    "no sites": ("version: 1\nsites: {}", "2:8: sites: must not be empty"),
    "sites no mapping": ("version: 1\nsites: 3", "2:8: sites: must be a mapping"),
    "site no mapping": ("version: 1\nsites: {a: 3}", "2:12: sites.a: must be a mapping"),
    "site name": (
        GOOD.replace("beijing:", "Beijing:"),
        "3:3: sites.Beijing: a name is lower case, starts with a letter, then letters, digits, - and _",
    ),
    "conninfo no text": (
        GOOD.replace("host=a port=1 user=u", "5432"),
        "5:15: sites.beijing.conninfo: must be a valid string",
    ),
    "limit too small": (GOOD + "limits: {streams: 0}", "14:19: limits.streams: must be greater than or equal to 1"),
    "limit no number": (GOOD + "limits: {streams: many}", "14:19: limits.streams: must be a valid integer"),
    "at number": (GOOD.replace(AT, "3"), "13:9: datasets.store.at: must be a list of sites, or site: conninfo"),
    "at empty": (GOOD.replace(AT, "[]"), "13:9: datasets.store.at: must not be empty"),
    "at value": (GOOD.replace(AT, "{beijing: 3}"), "13:19: datasets.store.at.beijing: must be a valid string"),
    "at unknown site": (
        GOOD.replace(AT, "[beijing, singapor]"),
        "13:19: dataset store is at site singapor, which sites does not name; did you mean singapore?",
    ),
    "at unknown key": (
        GOOD.replace(AT, "{beijing: , singapor: }"),
        "13:21: dataset store is at site singapor, which sites does not name; did you mean singapore?",
    ),
    "site twice": (
        GOOD.replace(AT, "[beijing, beijing]"),
        "13:19: dataset store is at beijing where it is at beijing: the same database",
    ),
    "same database": (
        GOOD.replace("host=b port=2", "host=a port=1"),
        "13:19: dataset store is at singapore where it is at beijing: the same database",
    ),
    "variable unset": (
        GOOD.replace("${PW}", "${NO_SUCH}"),
        "8:15: sites.singapore.conninfo: the environment variable NO_SUCH is not set",
    ),
    "variable form": (
        GOOD.replace("${PW}", "${PW"),
        "8:15: sites.singapore.conninfo: a variable is written ${NAME}; a literal ${ is written $${",
    ),
    "option": (
        GOOD.replace("user=u password", "user=u pasword"),
        f"{NOT_LIBPQ}: it has an unknown option; did you mean password?",
    ),
    "blank in a password": (
        GOOD.replace("${PW}", f"my {SECRET}=x"),
        f"{NOT_LIBPQ}: it has an unknown option (quote a value that holds blanks: password='...')",
    ),
    "no pairs": (
        GOOD.replace("${PW}", f"x {SECRET}"),
        f"{NOT_LIBPQ} (write key=value pairs, values with blanks in single quotes, or postgresql://user@host/database)",
    ),
    "at in a url": (
        GOOD.replace("host=b port=2 user=u password=${PW}", f"postgresql://u:p@{SECRET}@b/x"),
        IN_A_URL,
    ),
    "slash in a url": (
        GOOD.replace("host=b port=2 user=u password=${PW}", f"postgresql://u:p/{SECRET}@b/x"),
        IN_A_URL,
    ),
    "port": (
        GOOD.replace("port=1", f"port={SECRET}"),
        "5:15: sites.beijing.conninfo: the port is not a number",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    text, expected = BAD[case]
    error = refusal(tmp_path, text)
    assert error.message == f"{tmp_path / 'domicile.yaml'}:{expected}"


def test_every_problem_is_told_in_order(tmp_path: Path) -> None:
    text = GOOD.replace("jurisdiction: CN", "juristiction: CN").replace("dbname: store", "dbnames: store")
    error = refusal(tmp_path, text)
    assert error.message.endswith("sites.beijing has no jurisdiction (and 2 more)")
    problems = error.facts["problems"]
    assert isinstance(problems, list)
    assert [p.rsplit(": ", 1)[0].rsplit("yaml:", 1)[1] for p in problems] == ["3:3", "4:5", "12:5"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DomicileError, match=r"there is no .*missing\.yaml") as missing:
        load(tmp_path / "missing.yaml", {})
    assert "domicile init" in missing.value.hint
    with pytest.raises(DomicileError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a: &x0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"b{n}: &x{n} [{','.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than 10000 values" in refusal(tmp_path, "\n".join(lines)).message


PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=8)


@settings(max_examples=60, deadline=None)
@given(password=PASSWORDS)
def test_a_password_from_the_environment_arrives_whole_and_is_never_shown(
    tmp_path_factory: pytest.TempPathFactory, password: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    forms = (
        "host=b user=u password=${PW}",
        "host=b user=u password='${PW}'",
        "postgresql://u:${PW}@b:2/x",
        "postgresql://b/x?user=u&password=${PW}",
        "${DSN}",
    )
    environ = {"PW": password, "DSN": make_conninfo("", host="b", user="u", password=password)}
    for form in forms:
        text = GOOD.replace("host=b port=2 user=u password=${PW}", f'"{form}"')
        workspace = read(folder, text, environ)
        assert conninfo_to_dict(workspace.conninfo("store", "singapore"))["password"] == password
        assert secrets_of(workspace, {}) == {password}
        assert password not in repr(workspace) or password in repr(read(folder, GOOD, {"PW": "-"}))
        broken = refusal_of(folder, text.replace("jurisdiction: CN", "nonsense: CN"), environ)
        assert password not in broken or password in refusal_of(
            folder, GOOD.replace("jurisdiction: CN", "nonsense: CN"), {"PW": "-"}
        )


@settings(max_examples=100, deadline=None)
@given(noise=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12))
def test_a_broken_conninfo_does_not_show_its_password(tmp_path_factory: pytest.TempPathFactory, noise: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    for form in (f"host=b password={noise} {SECRET}", f"postgresql://u:{noise}{SECRET}@b:2/x", f"{SECRET}{noise}"):
        quoted = "'" + form.replace("'", "''") + "'"
        text = GOOD.replace("host=b port=2 user=u password=${PW}", quoted)
        assert SECRET not in shown(folder, text)


def shown(folder: Path, text: str) -> str:
    """All that a user may see of a file, good or bad."""
    try:
        return repr(read(folder, text))
    except DomicileError as error:
        return repr(error.as_dict()) + str(error)


def refusal_of(folder: Path, text: str, environ: dict[str, str]) -> str:
    with pytest.raises(DomicileError) as caught:
        read(folder, text, environ)
    return repr(caught.value.as_dict()) + str(caught.value)

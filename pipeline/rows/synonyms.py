"""The column names of real files for our fields: one line a field, the surest name first. Pure.

They come from Canvas' own migration template, Tuva's `eligibility`, Synthea, flat exports of an 834, and
exports of practice management systems (Kareo, athenahealth, AdvancedMD, eClinicalWorks, Medisoft, OpenEMR
and similar ones). Case, blanks, punctuation and common abbreviations do not count: "Payor ID", PAYER_ID
and payorId are one name, and so are "Acct #" and AccountNumber. A name with a ? may mean something else:
it is shown to a person, and never set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pipeline.rows.feed import Kind

_PATIENT: Final = "mrn | patient mrn | member mrn | patient identifier | patient id | patient key | pat id | pt id | patient number | patient no | patient num | patient account number | patient account no | patient account | patient acct no | account number | account no | account num | acct no | acct num | acct number | chart number | chart no | chart id | enterprise id | person id | patient external id | account | acct | chart | patient | medical record number | pid | patid | patient code | patient external no | external patient id | emr patient id | ehr patient id | client id? | client no? | custom number? | custom field? | customer reference id? | customer id? | customer number? | external id? | member?"

# fmt: off
SYNONYMS: Final[dict[Kind, dict[str, str]]] = {
    Kind.ELIGIBILITY: {
        "patient": _PATIENT,
        "subscriber": "subscriber mrn | subscriber patient id | subscriber pid | subscriber identifier | subscriber key | subscriber chart number | subscriber chart no | subscriber account number | subscriber account no | insured patient id | insured mrn | insured chart no | subscr mrn | sub mrn | policyholder chart id | policyholder chart no | policyholder mrn | subscriber | policy holder mrn | guarantor mrn? | guarantor id? | guarantor?",
        "member_id": "member id | insurance id number | insured id number | insured id no | member number | member no | member identifier | ins member id | policy number | policy no | policy num | policy id | insurance policy number | pol no | pol num | pol id | insured id | certificate number | certificate no | cert no | cardholder id | subscriber policy number | insurance id | membership number | membership id | member | member id code? | member code? | subscriber no? | subscriber number? | subscriber id? | identifier? | medicaid id? | id number?",
        "relationship": "relationship to subscriber | relationship to insured | relationship code | individual relationship code | rel code | rel cd | patient relationship to insured | patient relationship to subscriber | patient relationship | pat relationship | pt relationship | patient rel | pat rel | pt rel | subscriber relation | subscriber relationship | insured relationship | relation to subscriber | relation to insured | rel to subscriber | rel to insured | rel to subs | insd rel | ins rel | subscr rel | relationship to policyholder | relationship to policy holder | member relationship | relationship | relation | rel | ownership | ins02 | mem rel to sub | member relationship to subscriber | relationship to insured id | guarantor relationship?",
        "payer": "payer id | payor id | elect id | electronic payer id | electronic id | edi payer id | clearinghouse payer id | payer code | payor code | payer identifier | payer number | carrier id | carrier code | carrier no | insurance company id | insurance company no | insurance company code | insurance package id | insurance code | ins code | insurer id | payer | payor | carrier | insurer | insurance company | insurance carrier | ins company | ins co | insurance company name | payer name | payor name | carrier name | insurance name | ins name | company name | primary payer | insurance | health plan? | payer source value? | insurance provider? | provider? | program? | health insurance? | plan name?",
        "payer_name": "payer name | payor name | insurance company name | insurance company | insurance name | carrier name | insurer name | ins name | ins co name | company name",
        "order": "order | cob | cob order | cob priority | coverage order | insurance order | ins order | sequence number | sequence no | insurance sequence | sequence | seq no | seq num | seq | precedence | coverage priority | priority | payer responsibility | payer sequence | filing order | coverage rank | insurance rank | rank | prim sec | primary secondary | pri sec | ordinal | payer rank | payer order | insurance level? | level? | insurance type? | ins type? | type?",
        "start_on": "coverage start date | coverage start | coverage effective date | coverage begin date | coverage from | effective date | effective start date | effective from | effective | eff date | eff dt | eff | enrollment start date | enrollment start | eligibility start date | elig start | eligibility begin date | benefit begin date | benefit start date | begin date | plan effective date | policy effective date | start date | start dt | start | start on | start year | valid from | from date | active from | effective on | coverage begin | effective begin date | payer plan period start date | date effective | issue date? | from? | date?",
        "end_on": "coverage end date | coverage end | coverage termination date | coverage thru | coverage to | effective end date | effective to | termination date | term date | term dt | term | termination | enrollment end date | enrollment end | eligibility end date | elig end | benefit end date | plan termination date | policy end date | expiration date | expiry date | expires | exp date | exp dt | end date | end dt | end | end on | end year | valid to | thru date | to date | date term | termed on | disenrollment date | through date | valid until | valid thru | active to | active thru | effective thru | eligibility termination date | plan end date | payer plan period end date | cancellation date | cancel date | inactive date? | to?",
        "status": "coverage status | policy status | eligibility status | enrollment status | status | status code | benefit status code? | benefit status? | active flag? | maintenance type code? | active? | is active?",
        "type": "coverage type | coverage type code | plan type | insurance plan type | product type | insurance type | ins type | payer type | type | insurance line code | line of business | lob | policy type?",
        "plan": "plan name | plan | insurance plan name | benefit plan name | benefit plan | plan description | plan coverage description | product name | insurance plan | coverage description | plan source value? | plan id? | plan code? | program?",
        "subplan": "subplan | sub plan | subplan name",
        "group": "group number | group no | group num | group id | group | grp no | grp num | grp number | grp | employer group number | group policy number | policy group number | group or policy number | group name no | group no name | policy number? | group name?",
        "subgroup": "subgroup | sub group | subgroup id | subgroup number",
        "subscriber_id": "subscriber id | subscriber number | subscriber no | subscriber member id | insured id | policy holder id",
    },
    Kind.LEDGER: {
        "transaction_id": "split number | split id | transaction id | transaction number | transaction no | transaction num | txn id | txn no | txn | trans id | trans no | trans num | trx id | payment id | payment number | payment no | pmt id | pmt no | receipt number | receipt no | receipt num | receipt id | posting id | ledger id | ledger entry id | patient ledger id | entry id | entry no | transaction | receipt | id | payment line id | journal no | journal id | journal entry | entry | charge id | line id | record id | unique id | uuid | guid | reference number? | ref no? | voucher no? | confirmation number? | check number?",
        "patient": _PATIENT,
        "amount": "split amount | payment amount | amount paid | paid amount | payments | patient payment amount | patient payment | patient paid | pmt amount | pmt amt | paid amt | receipt amount | transaction amount | trans amount | trans amt | txn amount | amount usd | amount | amt | pmt | payment | paid | amount received | amount collected | gross amount? | gross? | total collected? | gross sales? | net amount? | net? | net total? | net sales? | credit amount? | credit? | credits? | copay amount? | total? | total paid? | debits? | debit?",
        "posted_on": "posted date | post date | posting date | date posted | posted on | posted | post dt | payment date | pmt date | pmt dt | date of payment | paid date | date paid | paid on | paid at | date pay | receipt date | deposit date | dep post date | transaction date | trans date | txn date | txn dt | entry date | journal date | date | dep date | service date? | date of service? | dos? | from date? | created? | created date? | created at? | created on? | timestamp? | process date?",
        "claim": "claim id? | claim number? | claim no? | claim num? | claim? | encounter id? | visit id? | encounter?",
        "entry_type": "entry type | transaction type | txn type | trans type | trx type | posting type | payment type | pmt type | type | transaction code | trans code | txn code | payment code | pmt code | code | category | kind? | method? | payment method? | procedure? | procedure code? | description?",
        "currency": "currency | currency code",
    },
}
# fmt: on
_LONG: Final = {
    **dict.fromkeys(("tran", "trans", "txn", "trx", "trn"), "transaction"),
    **dict.fromkeys(("pmt", "pymt", "paymt", "pay"), "payment"),
    **dict.fromkeys(("no", "num", "nbr", "nmbr", "nr"), "number"),
    **dict.fromkeys(("pt", "pat"), "patient"),
    **dict.fromkeys(("subs", "subscr", "sbr"), "subscriber"),
    **dict.fromkeys(("mbr", "mem"), "member"),
    **dict.fromkeys(("rel", "relation", "reln"), "relationship"),
    **dict.fromkeys(("term", "termed", "terminated"), "termination"),
    "acct": "account",
    "amt": "amount",
    "cd": "code",
    "co": "company",
    "dt": "date",
    "cov": "coverage",
    "desc": "description",
    "eff": "effective",
    "elig": "eligibility",
    "beg": "begin",
    "effdt": "effectivedate",
    "termdt": "terminationdate",
    "exp": "expiration",
    "grp": "group",
    "ins": "insurance",
    "insd": "insured",
    "jrnl": "journal",
    "payor": "payer",
    "pol": "policy",
}
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD: Final = re.compile(r"[^\W_]+")
# Words before a name that do not change its meaning. In a ledger "insurance payment" is no "payment".
_LEADING: Final[Mapping[Kind, Sequence[str]]] = {
    Kind.ELIGIBILITY: ("primary", "insurance", "policy", "coverage", "ins", "pri"),
    Kind.LEDGER: (),
}
_FURTHER: Final = re.compile(r"^(secondary|tertiary|2nd|3rd|other)")  # another coverage of the row
# Additions at the end of a name that do not change its meaning: of Stripe's exports and of spreadsheets.
_ADDITION: Final = re.compile(
    r"\s*\((?:metadata|utc|usd|us\$|\$|required|optional)\)\s*$", re.IGNORECASE
)
_SORTED: Final = "~"  # begins the folding in which the order of the words does not count


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of a column of days, by the field that they point to.
_DAY_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "start_on": _words("start begin effective from since"),
    "end_on": _words("end termination thru through to until expiration expires stop last"),
    "posted_on": _words(
        "payment paid post posted posting deposit receipt received entry transaction"
    ),
}
_DAY: Final = _words("date day on at time datetime")
# Words beside them that do not make it the day of something else.
_NEUTRAL: Final = _DAY | _words(
    "effective coverage plan policy insurance member benefit eligibility enrollment subscriber payer patient "
    "medical health period ins pri primary"
)
_OTHER_DAYS: Final = _words(
    "dob birth born death deceased created updated modified inserted changed service check verified "
    "print printed run hire employment signed school card"
)


@dataclass(frozen=True, slots=True)
class Match:
    """A column of a header for a field of ours. `others`: columns that could be meant as well."""

    column: str
    is_sure: bool
    others: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A column whose name is known for a field."""

    column: str
    is_sure: bool


class _Name(NamedTuple):
    rank: int
    is_sure: bool


def candidates(header: Sequence[str], kind: Kind) -> dict[str, list[Candidate]]:
    """Return by field the columns whose names are known for it, the surest first; one may be there for several."""
    folded = {column: _folded(_ADDITION.sub("", column) or column) for column in header}
    found: dict[str, list[Candidate]] = {}
    for field, names in _RANKS[kind].items():
        ranked = [
            (name, column)
            for column in folded
            if (name := _known(folded[column], names, _LEADING[kind])) is not None
        ]
        ranked.sort(key=lambda pair: pair[0])
        found[field] = [Candidate(column, name.is_sure) for name, column in ranked]
    return found


def matches(header: Sequence[str], kind: Kind) -> dict[str, Match]:
    """Return by field the column with the surest name; no column for two fields."""
    taken: set[str] = set()
    found: dict[str, Match] = {}
    for field, known_ in candidates(header, kind).items():
        free = [each for each in known_ if each.column not in taken]
        if not free:
            continue
        best, *others = free
        found[field] = Match(best.column, best.is_sure, tuple(each.column for each in others))
        if best.is_sure:
            taken.add(best.column)
    return found


def day_field(column: str, kind: Kind) -> tuple[str, bool] | None:
    """Return the field that a column of days is for by the words of its name, and whether that is sure.

    Returns:
        None if its name says that it is the day of something else, or nothing of a day.
    """
    words = set(_long_words(column))
    fields = ("posted_on",) if kind is Kind.LEDGER else ("end_on", "start_on")
    for field in fields:
        if found := words & _DAY_WORDS[field]:
            is_sure = words - found <= _NEUTRAL
            return (field, is_sure) if is_sure or not words & _OTHER_DAYS else None
    return (fields[-1], False) if words & _DAY and not words & _OTHER_DAYS else None


def is_date_beside_end(column: str, header: Sequence[str]) -> bool:
    """Return whether a column is named "date", and another one "date end": then it is the first day."""
    pairs = ({"date", "end"}, {"date", "termination"})
    return _long_words(column) == ["date"] and any(
        set(_long_words(name)) in pairs for name in header
    )


def words_of(name: str) -> list[str]:
    """Return the words of a column's name in lower case: "Amount Refunded" and amountRefunded are the same."""
    return _WORD.findall(_CAMEL.sub(" ", name).casefold().replace("#", " no "))


def kind_of(header: Sequence[str]) -> Kind | None:
    """Return the kind of a file with this header; None if its names do not decide."""
    scores = {kind: _score(header, kind) for kind in Kind}
    best = max(scores, key=lambda kind: scores[kind])
    is_clear = scores[best] > 1 and list(scores.values()).count(scores[best]) == 1
    return best if is_clear else None


def known(header: Sequence[str]) -> int:
    """Return the number of a header's names that are known, for either kind."""
    return max(len(matches(header, kind)) for kind in Kind)


def is_same(name: str, other: str) -> bool:
    """Return whether two names differ at most in case, blanks and punctuation."""
    return bool(words_of(name)) and _folded(name)[:2] == _folded(other)[:2]


def further(header: Sequence[str]) -> list[str]:
    """Return the columns of a second or third coverage in the same row."""
    return [column for column in header if _FURTHER.match(_folded(column)[0])]


def _score(header: Sequence[str], kind: Kind) -> int:
    """Score a header for a kind: names that only one kind has count more than those that both have."""
    found = matches(header, kind).items()
    return sum(1 + (field in _TELLING[kind]) for field, match in found if match.is_sure)


_TELLING: Final = {
    Kind.ELIGIBILITY: {"member_id", "relationship", "payer", "order", "end_on"},
    Kind.LEDGER: {"amount", "transaction_id", "posted_on"},
}


def _long_words(name: str) -> list[str]:
    return [_LONG.get(word, word) for word in words_of(name)]


def _folded(name: str) -> tuple[str, str, str]:
    """Return a name without case, blanks and punctuation: as it is, with its abbreviations expanded, and sorted."""
    words, long = words_of(name), _long_words(name)
    return "".join(words), "".join(long), _SORTED + " ".join(sorted(long))


def _ranks() -> dict[Kind, dict[str, dict[str, _Name]]]:
    """Return by kind, field and folded name its rank, and whether it is sure."""
    return {
        kind: {
            field: {
                folded: _Name(rank, not name.strip().endswith("?"))
                for rank, name in reversed(list(enumerate(names.split("|"))))
                for folded in _folded(name)
            }
            for field, names in fields.items()
        }
        for kind, fields in SYNONYMS.items()
    }


_RANKS: Final = _ranks()


def _known(
    foldings: Sequence[str], names: Mapping[str, _Name], leading: Sequence[str]
) -> _Name | None:
    """Return the rank of a name in the table, without leading words if needed."""
    if any(map(_FURTHER.match, foldings)):
        return None
    for folded in foldings:
        left = folded
        while left not in names:
            first = next((word for word in leading if left.startswith(word) and left != word), None)
            if first is None:
                break
            left = left.removeprefix(first)
        if left in names:
            return names[left]
    return None

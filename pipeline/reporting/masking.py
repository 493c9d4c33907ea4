"""Mask Canvas' texts for the page: words that could be a row's value are left out. Pure.

The list has the words to keep, because an unknown word may be a name: words of error messages, and names
of FHIR elements in their exact spelling. All else is masked, and so are each number and quoted texts.
Words that are also names of people (Will, May, Grant) or codes of rows (spouse, active) are in no list.
"""

import re
import unicodedata
from typing import Final

MASK: Final = "[…]"

# Of error messages, in small letters; with a capital only at the start of a sentence.
_WORDS: Final = frozenset(
    """
    a about above accepted accept accepts account after allowed already amount an and another any applied
    are as assigned at authentication authorization available balance be been before belong belongs below
    between blank body both but by can cannot changed character characters closed code codes combination
    conflict conflicts contain contains could created creating currency current database date dates decimal
    deleted did different digit digits do does doesn't don't duplicate each either element elements empty
    enough equal error errors exceed exceeds exist existing exists expected expired extra failed false
    field fields first following for forbidden format formatted found from future given greater had has have
    id ids if in inactive incorrect integer internal into invalid is isn't it item items its json key known large last
    least length less like limit list logical long longer match matches matching maximum member minimum missing
    more most multiple must negative neither no none nor not null number numeric of on one only operation or
    order out outside overlap overlaps overpay past path payer payment payments payor permitted policy positive
    present processed processing provided range read received record records refers reference referenced
    references rejected related request requested require required requires resource resources same saved
    schema search sent server short should shorter since single size some store string such support supported
    system text than that the their there these this time to too total true type types unable under unexpected
    unique unknown unprocessable unrecognized unsupported until update updated updates updating url use used
    valid validate validation value values version was were when which while with within without wrong year
    years zero
    again did down ended ends free give hasn't linked move moved orders other rank ranks removed run swap taken
    then them two
    beneficiary claim claims class contained copayment copay coverage deceased extension group identifier
    identifiers insurance insurer invoice notice organization patient patient's patients payee period plan
    provider recipient relationship start end status subgroup subplan subscriber subscriber's
    """.split()  # noqa: SIM905 - a list of this length is to be read
)
# Written like this and not otherwise.
_NAMES: Final = frozenset(
    """
    Claim Coverage Organization Patient PaymentNotice OperationOutcome Reference Identifier CodeableConcept
    Coding Period Money Extension Canvas FHIR HTTP ID Id IDs JSON UTC URL USD If Unmodified Since
    birthDate costToBeneficiary fullUrl paymentDate policyHolder resourceType subscriberId subscriberid
    valueReference contract relationshipCode paymentStatus
    """.split()  # noqa: SIM905 - a list of this length is to be read
)
_QUOTED: Final = re.compile(
    r"\"[^\"]*\"?|“[^”]*”?|‘[^’]*’?|`[^`]*`?|«[^»]*»?|(?<!\w)'.*?(?:'(?!\w)|$)"  # noqa: RUF001 - quotes as they come
)
_HARMLESS: Final = re.compile(r"[-–—>()\[\].,:;!?/]*")  # noqa: RUF001 - dashes as they come
_CORE: Final = re.compile(r"^([(\[]*)(.*?)([)\].,:;!?]*)$", re.DOTALL)
_PART: Final = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_JOINT: Final = re.compile(r"(?:\[\d{1,2}\])?(?:->|[-./_:])|\[\d{1,2}\]")
_STATUS: Final = re.compile(r"HTTP [1-5]\d\d")
_LENGTH_MAX: Final = 300
UNFIT: Final = r"[\p{C}\p{Zl}\p{Zp}]"  # the characters that `shown` escapes, as polars writes them


def shown(text: str) -> str:
    r"""Return the text with invisible characters, and those that change its direction, escaped: `\u202e`."""
    return "".join(f"\\u{ord(each):04x}" if _is_unfit(each) else each for each in text)


def _is_unfit(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "C" or category in {"Zl", "Zp"}


def masked(text: str) -> str:
    """Return the text with `[…]` for each run of words not known to be harmless; at most 300 characters."""
    if _STATUS.fullmatch(text):
        return text
    shown: list[str] = []
    is_first = True  # of a sentence
    for chunk in _QUOTED.sub(" \0 ", text).split():
        kept = _kept(chunk, is_first=is_first)
        if kept != MASK or not shown or shown[-1] != MASK:
            shown.append(kept)
        is_first = chunk[-1] in ".!?-:"
    return " ".join(shown)[:_LENGTH_MAX]


def _kept(chunk: str, *, is_first: bool) -> str:
    if _HARMLESS.fullmatch(chunk):
        return chunk
    opening, core, closing = _CORE.fullmatch(chunk).groups()  # type: ignore[union-attr]  # it fits any text
    if core and _is_known(core, is_first=is_first):
        return f"{opening}{core}{closing}"
    return MASK


def _is_known(core: str, *, is_first: bool) -> bool:
    """Return whether it has only known words, alone or joined as in `payor[0].identifier`."""
    at = 0
    while True:
        word = _PART.match(core, at)
        if word is None or not _is_word(word[0], is_first=is_first and at == 0):
            return False
        at = word.end()
        if at == len(core):
            return True
        joint = _JOINT.match(core, at)
        if joint is None:
            return False
        at = joint.end()
        if at == len(core):
            return joint[0].endswith("]")


def _is_word(word: str, *, is_first: bool) -> bool:
    if word in _NAMES or word in _WORDS:
        return True
    return is_first and word[0].isupper() and word[1:].islower() and word.lower() in _WORDS

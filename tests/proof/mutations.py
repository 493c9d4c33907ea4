"""`python -m tests.proof.mutations`: each fault that the tests must see is planted, and must be seen.

One at a time, in a throwaway copy of the tree, and only the tests that are named for it are run. Ends
with 1 where a fault stays unseen, where a mutation's text is no longer in its file exactly once, or
where the named tests are not green without any fault. Numbers name the faults to plant; else all are.
"""

import argparse
import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_COPIED: Final = ("pipeline", "tests", "configs", "sample_data", "pyproject.toml", "README.md")
_AT_ONCE: Final = 2
_HANGS_S: Final = 180.0
_CLOSING: Final = frozenset(")]}")
_RED: Final = 1  # pytest's exit code: tests were run, and some failed

_UPLOAD: Final = "pipeline/sending/upload.py"
_CLAIMER: Final = "pipeline/sending/claimer.py"
_SETTLER: Final = "pipeline/sending/settler.py"
_SEARCHER: Final = "pipeline/sending/searcher.py"
_DECIDE: Final = "pipeline/sending/decide.py"
_RECOVER: Final = "pipeline/sending/recover.py"
_WEIGH: Final = "pipeline/sending/weigh.py"
_CLIENT: Final = "pipeline/canvas/client.py"
_RETRY: Final = "pipeline/canvas/judge.py"
_SERVER_CLOCK: Final = "pipeline/canvas/server_clock.py"
_BREAKER: Final = "pipeline/canvas/breaker.py"
_REFUSALS: Final = "pipeline/sending/refusals.py"
_JOURNAL: Final = "pipeline/journal/journal.py"
_WRITES: Final = "pipeline/journal/writes.py"
_DECISIONS: Final = "pipeline/journal/decisions.py"
_LEASES: Final = "pipeline/journal/leases.py"
_SQLITE: Final = "pipeline/journal/sqlite.py"
_QUERIES: Final = "pipeline/journal/queries.sql"
_POSTGRES: Final = "pipeline/journal/postgres.py"
_LEASES_SQL: Final = "pipeline/journal/queries_postgres.sql"
_PARTITIONS: Final = "pipeline/cluster/senders.py"
_SHARED_RATE: Final = "pipeline/cluster/shared_rate.py"
_SHARED_LIMITER: Final = "pipeline/cluster/shared_limiter.py"
_SHARED: Final = "tests/cluster/test_shared_limiter.py"

_TAKEN_OVER: Final = "tests/journal/test_leases.py::test_a_part_that_is_taken_over_is_doubted_and_its_old_holder_writes_nothing"
_ORPHANS: Final = "tests/journal/test_leases.py::test_what_is_in_flight_under_a_holder_that_may_live_is_an_orphan_whoever_fences_it"
_ANSWERS: Final = "tests/canvas/test_judge.py::test_each_answer_has_its_class"
_STOPS: Final = "tests/sending/test_stops.py"
_FEW_WRITES: Final = (
    f"{_STOPS}::test_few_writes_go_to_a_server_that_answers_reads_and_loses_all_writes"
)
_WEIGHED: Final = "tests/sending/test_recover.py::test_only_what_is_certain_is_settled"
_DATES: Final = "tests/sending/test_recover.py::test_the_server_is_never_earlier_or_later_than_its_dates_leave_open"
_EDITED: Final = (
    "tests/proof/test_simulation.py::test_updates_overwrite_no_edit_and_no_other_insurer"
)
_PAYER: Final = "tests/sending/test_recover.py::test_where_a_payer_cannot_be_compared_the_time_of_our_last_write_stays_the_condition"
_UNDER_FAULTS: Final = "tests/commands/test_run.py::test_never_two_effects_for_a_row_under_faults"
_SHUT_LANE: Final = "tests/commands/test_run.py::test_a_lane_stays_shut_behind_a_write_in_doubt"

_ENDS: Final = "tests/planning/test_ends.py"

_SHARE: Final = "tests/proof/test_input.py::test_a_share_of_each_class"
_ROWS: Final = f"{_SHARE}[rows]"
_TEXTS: Final = f"{_SHARE}[texts]"
_TORN: Final = f"{_SHARE}[torn]"
_AMOUNTS: Final = "tests/proof/test_input.py::test_an_amount_is_what_a_slow_judge_reads"
_UNFIT: Final = "tests/reading/test_inspect.py::test_an_unfit_file_is_refused"
_BOUNDS: Final = "tests/reading/test_inspect.py::test_a_cell_and_a_row_have_a_longest_length"
_CHILD: Final = "tests/reading/test_parquet.py"
_WORKBOOK: Final = "tests/reading/test_workbook.py"
_PARQUET: Final = "tests/reading/test_parquet.py::test_an_id_that_was_written_as_a_number_with_decimals_is_refused"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A fault: in `file`, `old` becomes `new`. One of `tests` must notice.

    `old` is compared without its white space and its commas before closing brackets, which the formatter moves.
    """

    number: str
    fault: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def plant(self, source: str) -> str:
        """Return the source with the fault in it, indented as the code that it replaces.

        Raises:
            StaleError: That code is not there exactly once.
        """
        own = re.match(r"(?: {4})*", self.old)
        start = r"^(?P<indent> *)" if own and own[0] else "(?P<indent>)"
        end = r"[ \t]*\n" if self.old.endswith("\n") else ""
        found = list(re.finditer(start + _pattern(self.old) + end, source, re.MULTILINE))
        if len(found) != 1:
            raise StaleError(
                f"{self.number}: its text is {len(found)} times in {self.file}: {self.old!r}"
            )
        deeper = len(found[0]["indent"]) - len(own[0] if own else "")
        new = textwrap.indent(self.new, " " * deeper)
        if deeper < 0:
            new = re.sub(rf"^ {{{-deeper}}}", "", self.new, flags=re.MULTILINE)
        return source[: found[0].start()] + new + source[found[0].end() :]


class StaleError(ValueError):
    """The code that a mutation changes is no longer there exactly once."""


def _pattern(text: str) -> str:
    """Return a pattern of code, whatever its white space, and its commas before closing brackets."""
    tokens = re.findall(r"\w+|[^\w\s]", text)
    pattern = ""
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token == "," and after in _CLOSING:
            continue
        space = r"\s+" if re.fullmatch(r"\w+ \w+", f"{before} {token}") else r"\s*"
        pattern += space if before else ""
        pattern += (r"(?:,\s*)?" if before and token in _CLOSING else "") + re.escape(token)
    return pattern


MUTATIONS: Final = (
    Mutation(
        "1",
        "sent before its claim is on disk",
        _CLAIMER,
        """        await self._settler.enter(Begun(sure, at, since))
        for intent in sure:
            self._claims.queue.put_nowait(intent)
""",
        """        for intent in sure:
            self._claims.queue.put_nowait(intent)
        await self._settler.enter(Begun(sure, at, since))
""",
        (
            "tests/sending/test_upload.py::test_nothing_is_sent_that_is_not_marked_in_flight_on_disk",
        ),
    ),
    Mutation(
        "2",
        "what was in flight is pending again at the start",
        _QUERIES,
        "state = 'IN_DOUBT', rule = 'canvas|no-answer'",
        "state = 'PENDING', rule = 'canvas|no-answer'",
        ("tests/journal/test_journal.py::test_what_a_crash_left_in_flight_is_in_doubt",),
    ),
    Mutation(
        "3",
        "sent again after a timeout",
        _RETRY,
        'return _lost("no-answer", f"no answer after it was sent ({reply.problem})")',
        'return Judgement(Verdict.NOT_APPLIED, rule="canvas|no-answer")',
        (_ANSWERS,),
    ),
    Mutation(
        "4",
        "sent again after a 500",
        _RETRY,
        "if status == 429:",
        "if status in {429, 500}:",
        (_ANSWERS,),
    ),
    Mutation(
        "5",
        "sent again after a 503",
        _RETRY,
        "if status == 429:",
        "if status in {429, 503}:",
        (_ANSWERS,),
    ),
    Mutation(
        "6",
        "what a search does not show goes again, whatever resend_absent says",
        _DECIDE,
        'return not doubt.resent and (allowed == "all" or (allowed == "coverage" and is_coverage))',
        "return not doubt.resent",
        ("tests/sending/test_doubt.py::test_what_is_absent_is_sent_again_as_the_user_decided",),
    ),
    Mutation(
        "6b",
        "no quiet time before the search",
        _SETTLER,
        "await self._searcher.search_for(attempt.intent, self._options.quiet_s)",
        "await self._searcher.search_for(attempt.intent, 0.0)",
        (f"{_UNDER_FAULTS}[late]",),
    ),
    Mutation(
        "6c",
        "what a search does not show goes again and again",
        _DECIDE,
        "return not doubt.resent and (allowed",
        "return (allowed",
        ("tests/sending/test_upload.py::test_what_is_lost_a_second_time_is_not_sent_a_third",),
    ),
    Mutation(
        "6d",
        "no quiet time before the search for an earlier run's write",
        _UPLOAD,
        "searcher.add(doubt, searcher.still_quiet_s(doubt))",
        "searcher.add(doubt, 0.0)",
        (
            "tests/sending/test_upload.py::test_the_quiet_time_of_a_write_holds_for_the_next_run_too",
        ),
    ),
    Mutation(
        "7",
        "sent again after a 201 without Location",
        _RETRY,
        'return _lost("no-id", "created, and the answer has no usable id")',
        'return Judgement(Verdict.NOT_APPLIED, rule="canvas|no-id")',
        (_ANSWERS,),
    ),
    Mutation(
        "8",
        "a 200 counts as refused",
        _RETRY,
        "frozenset({400, 406,",
        "frozenset({200, 400, 406,",
        (_ANSWERS,),
    ),
    Mutation(
        "9",
        "redirects are followed",
        "pipeline/canvas/transport.py",
        "allow_redirects=False",
        "allow_redirects=True",
        (
            "tests/canvas/transport/test_answers.py::test_an_answer_and_the_one_after_it[asyncio-a redirect is not followed]",
        ),
    ),
    Mutation(
        "10",
        "only the first page of a search is read",
        _CLIENT,
        "            if after is None:\n                return found\n",
        "            return found\n",
        ("tests/sending/test_recover.py::test_a_search_is_all_of_its_pages",),
    ),
    Mutation(
        "11",
        "what a search shows is not filtered again",
        _WEIGH,
        "        if notice is not None and (notice.patient, notice.cents, notice.claim) == (\n"
        '            f"Patient/{intent.lane}",\n'
        "            intent.amount_cents,\n"
        "            intent.claim,\n"
        "        ):\n",
        "        if notice is not None:\n",
        (
            "tests/sending/test_recover.py::test_of_payments_those_are_like_it_that_are_the_patients_to_the_cent_and_claim",
        ),
    ),
    Mutation(
        "11b",
        "all coverages that a search shows are like it",
        _WEIGH,
        "if is_like(each, intent.match_key)}",
        "}",
        (
            "tests/sending/test_recover.py::test_of_coverages_those_are_like_it_that_say_the_same_of_the_same_patient",
        ),
    ),
    Mutation(
        "12",
        "the first of several is taken",
        _WEIGH,
        "if len(possible) == 1 and possible[0].when == _INSIDE:",
        "if possible and possible[0].when == _INSIDE:",
        (
            "tests/sending/test_doubt.py::test_an_equal_payment_made_meanwhile_by_hand_parks_the_row",
        ),
    ),
    Mutation(
        "13",
        "a page that is missing counts as an empty one",
        _CLIENT,
        '        raise SearchFailed(f"{failed} without a Bundle that can be read" if is_odd else failed)\n',
        "        return [], None\n",
        ("tests/sending/test_recover.py::test_a_page_that_is_none_is_never_an_empty_one",),
    ),
    Mutation(
        "13a",
        "a search that failed counts as one that shows nothing",
        _RECOVER,
        '            message = f"{lost_how(doubt)}; Canvas could not be searched: {error.message}"\n'
        '            return Finding(Settlement.UNKNOWN, "recover|unsearchable", message)\n',
        "            like = {}\n",
        ("tests/sending/test_recover.py::test_a_search_that_fails_says_nothing",),
    ),
    Mutation(
        "13b",
        "one scan counts as two that agree",
        _RECOVER,
        "            if now == before:\n",
        "            if True:\n",
        (
            "tests/sending/test_recover.py::test_what_a_search_shows_counts_once_the_next_one_shows_it_too",
        ),
    ),
    Mutation(
        "14",
        "the journal is not locked",
        _SQLITE,
        'connection.execute("PRAGMA locking_mode = EXCLUSIVE")',
        'connection.execute("PRAGMA locking_mode = NORMAL")',
        ("tests/journal/test_journal.py::test_only_one_run_holds_it",),
    ),
    Mutation(
        "15",
        "cents are read as floating point",
        "pipeline/rows/money.py",
        'cents = int(whole + ("" if style.unit == "cents" else decimals[:2].ljust(2, "0")))',
        'cents = int(float(f"{whole or 0}.{decimals or 0}") * 100)',
        ("tests/rows/test_rows.py::test_cents_are_exact",),
    ),
    Mutation(
        "15b",
        "cents that Canvas shows are read as floating point",
        "pipeline/fhir/payment_notice.py",
        'cents = int(amount[1]) * 100 + int((amount[2] or "0").ljust(2, "0"))',
        'cents = int(float(resource["amount"]["value"]) * 100)',
        ("tests/sending/test_recover.py::test_a_payment_is_known_again_to_the_cent",),
    ),
    Mutation(
        "15c",
        "amounts are sent as floating point",
        "pipeline/fhir/datatypes.py",
        'orjson.Fragment(f"{amount:.2f}")',
        "float(amount)",
        ("tests/fhir/test_resources.py::test_amounts_are_clean_numbers_of_two_decimals",),
    ),
    Mutation(
        "16",
        "a row's key is its number in the file",
        "pipeline/rows/validate.py",
        "parts = [canonical(name, values[name], reading) for name in feed.key]",
        "parts = [str(row)]",
        ("tests/rows/test_rows.py::test_the_key_does_not_depend_on_spelling",),
    ),
    Mutation(
        "17",
        "a patient's next write does not wait for the one before",
        "pipeline/sending/queues.py",
        "            queue.append(intent)\n            self._waiting_count += 1\n",
        "            self._ready.append(intent)\n",
        ("tests/sending/test_queues.py",),
    ),
    Mutation(
        "18",
        "a 401 counts as refused",
        _RETRY,
        '            Verdict.NOT_APPLIED,\n            rule="canvas|unauthorized",\n',
        '            Verdict.REFUSED,\n            rule="canvas|unauthorized",\n',
        (_ANSWERS,),
    ),
    Mutation(
        "19",
        "what belongs to another row counts as ours",
        _WEIGH,
        "        if each not in claimed\n    )\n",
        "    )\n",
        (_WEIGHED,),
    ),
    Mutation(
        "20",
        "what was there before our first send counts as ours",
        _WEIGH,
        "    if made_at < doubt.since:\n        return _BEFOREHAND\n",
        "",
        (_WEIGHED,),
    ),
    Mutation(
        "21",
        "what was made long after our last send counts as ours",
        _WEIGH,
        "    if made_at > doubt.until + quiet:\n        return _LATE\n",
        "",
        (_WEIGHED,),
    ),
    Mutation(
        "22",
        "the next write of a patient goes before a doubt is settled",
        _SEARCHER,
        "        doubt = await doubts.doubt_of(self._journal, intent.key)\n        if doubt is not None:\n",
        "        doubt = await doubts.doubt_of(self._journal, intent.key)\n        self._flow.queues.ended(intent)\n"
        "        if doubt is not None:\n",
        (_SHUT_LANE,),
    ),
    Mutation(
        "23",
        "the doubts of earlier runs do not hold their patients' writes",
        _UPLOAD,
        "PatientQueues(shut)",
        "PatientQueues()",
        (_SHUT_LANE,),
    ),
    Mutation(
        "24",
        "an id that another row has is proof",
        _WRITES,
        "proved.append(each.intent.key not in taken and resource not in given)",
        "proved.append(True)",
        ("tests/journal/test_journal.py::test_an_id_of_another_row_is_no_proof",),
    ),
    Mutation(
        "25",
        "the trail's lines are not chained",
        "pipeline/journal/audit_log.py",
        "hashlib.sha256(before.encode() + orjson.dumps(tuple(line)))",
        "hashlib.sha256(orjson.dumps(tuple(line)))",
        ("tests/journal/test_audit_log.py::test_a_change_breaks_the_chain_behind_it",),
    ),
    Mutation(
        "26",
        "the journal is not held against its high_water_mark",
        "pipeline/journal/loss_detection.py",
        "    if high_water_mark is not None:\n        if high_water_mark.journal != name:\n",
        "    high_water_mark = None\n    if high_water_mark is not None:\n        if high_water_mark.journal != name:\n",
        (
            "tests/journal/test_audit_log.py::test_the_anchor_alone_shows_a_journal_that_is_older_or_another",
        ),
    ),
    Mutation(
        "27",
        "commits are not synced",
        _SQLITE,
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = NORMAL",
        ("tests/journal/test_journal.py::test_it_is_durable_and_private",),
    ),
    Mutation(
        "28",
        "a group of writes is no transaction",
        _JOURNAL,
        "                self._guarded(self.store.begin)\n                ended.append(self._guarded(step))\n"
        "                self._guarded(self.store.commit)\n",
        "                ended.append(self._guarded(step))\n",
        (
            "tests/proof/test_powerloss.py::test_nothing_that_was_promised_is_lost_when_the_power_goes",
        ),
    ),
    Mutation(
        "29",
        "lost answers in a row do not stop the sending",
        _BREAKER,
        "self._lost >= lost_max:",
        "self._lost < 0:",
        (
            "tests/sending/test_upload.py::test_a_run_ends_where_answers_to_writes_are_lost_again_and_again",
        ),
    ),
    Mutation(
        "29b",
        "after an outage all writes go at once, without waiting for the answer to a probe",
        _BREAKER,
        "        self._has_probe = self._is_half_open\n",
        "        self._has_probe = False\n",
        (f"{_FEW_WRITES}[8-3]",),
    ),
    Mutation(
        "29c",
        "a probe that is answered with 429 keeps all others waiting",
        _BREAKER,
        "            if self._is_half_open:\n                self._enter(is_half_open=True)\n",
        "            pass\n",
        (
            f"{_STOPS}::test_a_run_goes_on_whatever_the_first_write_after_an_outage_is_answered_with[429]",
        ),
    ),
    Mutation(
        "29d",
        "what was sent before an outage ends it with a late answer",
        _BREAKER,
        "        if ticket != self._period:\n",
        "        if ticket < 0:\n",
        ("tests/canvas/test_breaker.py",),
    ),
    Mutation(
        "29e",
        "403 for every row refuses all rows",
        _REFUSALS,
        "        if len(series.of) >= _IN_A_ROW_MAX:\n",
        "        if len(series.of) >= _IN_A_ROW_MAX and not (refusal is Refusal.FORBIDDEN and proven):\n",
        (f"{_STOPS}::test_403_for_every_row_with_a_new_token_too_stops_and_refuses_no_row",),
    ),
    Mutation(
        "29f",
        "rows that were refused at the begin of a series stay refused",
        _REFUSALS,
        "        self.not_refused += series.refused\n",
        "",
        (f"{_STOPS}::test_403_for_every_row_with_a_new_token_too_stops_and_refuses_no_row",),
    ),
    Mutation(
        "29g",
        "403 for every row stops the run without a new token",
        _REFUSALS,
        "        if can_renew and self._renew(permit.token):\n",
        "        if can_renew and False:\n",
        (
            f"{_STOPS}::test_a_403_because_of_the_token_gets_a_new_one_and_refuses_no_row[forbidden-Authorization failed-True]",
        ),
    ),
    Mutation(
        "29h",
        "one blocked row stops the run",
        _RETRY,
        "stop=None if proven else blocked(",
        "stop=blocked(",
        (f"{_STOPS}::test_a_row_that_a_firewall_blocks_is_set_aside_and_the_others_go",),
    ),
    Mutation(
        "29i",
        "blocked rows never stop the run",
        _REFUSALS,
        "        if len(series.of) >= _IN_A_ROW_MAX:\n",
        "        if len(series.of) >= _IN_A_ROW_MAX and refusal is not Refusal.BLOCKED:\n",
        (f"{_STOPS}::test_a_firewall_that_blocks_several_rows_in_a_row_stops_the_run",),
    ),
    Mutation(
        "29j",
        "a blocked row counts as refused",
        _RETRY,
        "            Verdict.LOST,\n            rule=BLOCKED,\n",
        "            Verdict.REFUSED,\n            rule=BLOCKED,\n",
        (_ANSWERS,),
    ),
    Mutation(
        "30",
        "Retry-After is ignored",
        _CLIENT,
        "asked_s = retry_after_s(reply, self._clock.now())",
        "asked_s = None",
        ("tests/commands/test_run.py::test_nothing_is_sent_for_as_long_as_canvas_asks[seconds]",),
    ),
    Mutation(
        "31",
        "what Canvas may hold already is sent after the journal was lost",
        _CLAIMER,
        "        if finding is None:\n            return True\n        await decisions.suspect(",
        "        return True\n        await decisions.suspect(",
        (
            "tests/commands/test_review.py::test_a_journal_that_forgot_stops_the_run_and_says_how[missing-drop_missing]",
        ),
    ),
    Mutation(
        "32",
        "the clocks of Canvas' machines are taken to be one",
        _SERVER_CLOCK,
        "_SLACK: Final = timedelta(seconds=1)",
        "_SLACK: Final = timedelta(seconds=0)",
        (_DATES,),
    ),
    Mutation(
        "32b",
        "the second that a Date is cut to counts as an instant",
        _SERVER_CLOCK,
        "_TICK: Final = timedelta(seconds=1)",
        "_TICK: Final = timedelta(seconds=0)",
        (_DATES,),
    ),
    Mutation(
        "32c",
        "the time that an answer is under way is not counted in",
        _SERVER_CLOCK,
        "dated - answered_at - _SLACK",
        "dated - sent_at - _SLACK",
        (_DATES,),
    ),
    Mutation(
        "33",
        "what was there before is not noted where the server tells no time",
        _RECOVER,
        "        if others:\n            await decisions.note_foreign(",
        "        if others and self.journal.was_lost:\n            await decisions.note_foreign(",
        (
            "tests/sending/test_recover.py::test_what_is_there_before_our_first_send_is_never_taken_for_ours",
        ),
    ),
    Mutation(
        "34",
        "a resend takes the content of another row with the same key",
        "pipeline/planning/plan.py",
        'pl.col("key").is_in(wanted) & pl.col("disposition").is_in(STANDING)',
        'pl.col("key").is_in(wanted) & ~pl.col("disposition").is_in(STANDING)',
        (
            "tests/commands/test_review.py::test_what_goes_again_is_the_row_that_was_sent_and_no_other_of_its_key",
        ),
    ),
    Mutation(
        "35",
        "what was there before is confirmed with all that was found",
        "pipeline/commands/decisions.py",
        'if each.when != "before"]',
        "]",
        (
            "tests/commands/test_review.py::test_what_was_there_before_is_never_confirmed_with_the_others",
        ),
    ),
    Mutation(
        "36",
        "a fault in one sender cuts off the others",
        "pipeline/sending/sender.py",
        "            except Exception as error:  # noqa: BLE001 - a fault of ours must not cut off the others",
        "            except KeyError as error:",
        ("tests/commands/test_review.py::test_a_fault_of_ours_while_sending_costs_one_row",),
    ),
    Mutation(
        "37",
        "a report that tells of more lines than the trail has is no trace",
        "pipeline/journal/loss_detection.py",
        'return "restored" if report_dir and _reports_more(store, report_dir, name) else ""',
        'return ""',
        ("tests/commands/test_review.py::test_a_backup_that_was_made_during_a_run_is_noticed",),
    ),
    Mutation(
        "38",
        "a resend takes the clocks of today for those of the first send",
        _QUERIES,
        "ahead_s = CASE WHEN write.resent > 0 THEN write.ahead_s ELSE excluded.ahead_s END",
        "ahead_s = excluded.ahead_s",
        (
            "tests/commands/test_review.py::test_a_resend_after_the_servers_clock_was_set_is_not_sent_a_third_time",
        ),
    ),
    Mutation(
        "40",
        "today's rows go before what is still owed to their patient",
        "pipeline/commands/upload.py",
        "await session.upload(intents_of(job, plan), types, seen, shut=shut)",
        "await session.upload(intents_of(job, plan), types, seen)",
        ("tests/commands/test_review.py::test_todays_rows_do_not_overtake_what_is_owed",),
    ),
    Mutation(
        "41",
        "what is there before a resend is noted as somebody else's",
        _RECOVER,
        "if before is not None and before.resent:",
        "if before is None:",
        (
            "tests/sending/test_doubt.py::test_a_resend_that_is_tried_again_may_find_its_own_late_effect",
        ),
    ),
    Mutation(
        "42",
        "an update goes without its condition",
        _CLIENT,
        "        if unmodified_since is not None:\n            precondition[",
        "        if unmodified_since is not None:\n            dict[str, str]()[",
        (_EDITED,),
    ),
    Mutation(
        "43",
        "a 412 counts as accepted",
        _RETRY,
        "    if reply.status == 200:  # noqa: PLR2004 - OK\n",
        "    if reply.status in {200, 412}:\n",
        (_EDITED,),
    ),
    Mutation(
        "44",
        "an update goes again after a 412, without a look",
        _RETRY,
        'Verdict.STALE, rule="conflict"',
        'Verdict.NOT_APPLIED, rule="conflict"',
        (_EDITED,),
    ),
    Mutation(
        "45",
        "what a person edited is no difference",
        _WEIGH,
        "if like is not None and different is not None and not set(different) - not_ours:",
        "if like is not None and different is not None:",
        (_EDITED,),
    ),
    Mutation(
        "46",
        "a read's Date is the condition, though it cannot show who edited the payer",
        _WEIGH,
        "    again = replace(again, held_at=held_at)\n",
        "",
        (_PAYER,),
    ),
    Mutation(
        "47",
        "the second that a probe adds is kept, and adds up",
        _WEIGH,
        "probing = replace(again, probe_at=probe_at if",
        "probing = replace(again, held_at=probe_at if",
        (_PAYER,),
    ),
    Mutation(
        "48",
        "a read is taken for as new as its Date",
        _RECOVER,
        "read_at = None if dated is None else dated - timedelta(seconds=int(self.quiet_s))",
        "read_at = dated",
        ("tests/sending/test_recover.py::test_a_read_may_be_as_old_as_the_quiet_time",),
    ),
    Mutation(
        "48b",
        "an update may have a condition later than the read that compared it",
        _WEIGH,
        "return held_at if read_at is None else min(held_at, read_at)",
        "return held_at",
        (
            "tests/sending/test_recover.py::test_the_condition_of_an_update_is_never_later_than_the_read_that_compared_it",
        ),
    ),
    Mutation(
        "48c",
        "a change is overwritten though neither the content before nor the payer can be compared",
        _WEIGH,
        "return is_changed and not (is_known or is_named)",
        "return False",
        (
            "tests/sending/test_recover.py::test_a_change_is_not_overwritten_if_the_content_before_is_not_known_either",
        ),
    ),
    Mutation(
        "49",
        "an update whose answer is lost counts as carried out",
        _RETRY,
        "    if reply.status == 200:  # noqa: PLR2004 - OK\n",
        "    if reply.status == 200 or reply.handed_off and (reply.status or 500) >= 500:\n",
        (_EDITED,),
    ),
    Mutation(
        "50",
        "the quiet time of an earlier run's loss goes by a clock that was set since",
        _SEARCHER,
        " or not clock.agrees(doubt.ahead):",
        ":",
        (
            "tests/sending/test_upload.py::test_the_quiet_time_of_an_earlier_loss_goes_by_no_clock_that_was_set_since",
        ),
    ),
    Mutation(
        "51",
        "what a 412 refused is compared with a read of the same moment",
        _SETTLER,
        "await self._searcher.search_for(attempt.intent, self._options.quiet_s)",
        "await self._searcher.search_for(attempt.intent, 0.0)",
        (
            "tests/commands/test_nightly.py::test_what_was_refused_for_an_edit_is_looked_at_only_after_the_quiet_time",
        ),
    ),
    Mutation(
        "52",
        "an update after a lost create goes by a read that may be as old",
        _CLAIMER,
        "await searcher.search_for(intent, wait_s)",
        "await searcher.search_for(intent, 0.0)",
        (
            "tests/sending/test_upload.py::test_an_update_after_a_lost_create_waits_for_a_read_that_shows_every_edit",
        ),
    ),
    Mutation(
        "53",
        "a probe counts as used up though nothing was sent with it",
        _RECOVER,
        "is_sent_again = intent.run_id == self.run_id",
        "is_sent_again = True",
        (
            "tests/sending/test_recover.py::test_a_probe_is_used_up_only_where_this_run_sends_with_it",
        ),
    ),
    Mutation(
        "53b",
        "a probe counts as used up though it was not carried out",
        _CLAIMER,
        "conditions = dict(self._searcher.probes)",
        "conditions, self._searcher.probes = self._searcher.probes, {}",
        ("tests/sending/test_upload.py::test_a_probe_that_was_not_carried_out_is_made_again",),
    ),
    Mutation(
        "54",
        "a server's clock that was set while a payment was sent tells when it was made",
        _WEIGH,
        "doubt.since is None or doubt.until is None or made_at is None",
        "doubt.since is None or made_at is None",
        (
            "tests/sending/test_recover.py::test_a_payment_that_was_sent_while_the_servers_clock_was_set_has_no_time",
        ),
    ),
    Mutation(
        "55",
        "a server's clock that was set is trusted again once it is set back",
        _SERVER_CLOCK,
        "            self.was_set |= self._most - self._least > _WIDTH_MAX\n",
        "",
        ("tests/sending/test_recover.py::test_a_clock_that_was_set_decides_nothing[and back]",),
    ),
    Mutation(
        "55b",
        "that a clock was set is forgotten with the run that heard it",
        _DECISIONS,
        '            journal.execute("forget_times", {"keys": as_json(keys)})',
        "            pass",
        (
            "tests/sending/test_doubt.py::test_a_clock_that_was_set_and_set_back_proves_nothing_in_later_runs[heard at once]",
        ),
    ),
    Mutation(
        "55c",
        "that a clock was set before this run began is heard, and forgotten with it",
        _UPLOAD,
        "if any(each.ahead is not None and contradicts(each.ahead) for each in doubts):",
        "if not doubts:",
        (
            "tests/sending/test_doubt.py::test_a_clock_that_was_set_and_set_back_proves_nothing_in_later_runs[heard in the next run]",
        ),
    ),
    Mutation(
        "55d",
        "an update that an earlier run lost is taken for another user's edit",
        _RECOVER,
        "return key in self.lost_before[0]",
        "return False",
        (
            "tests/sending/test_payer.py::test_an_update_that_an_earlier_run_lost_is_not_taken_for_an_edit",
        ),
    ),
    Mutation(
        "I1",
        "a thousands separator is read over",
        "pipeline/rows/money.py",
        'whole = rf"(?:[0-9]{{1,12}}|[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}}){{1,3}})"',
        'whole = rf"[0-9][0-9{group}]{{0,11}}"',
        (
            _AMOUNTS,
            _ROWS,
        ),
    ),
    Mutation(
        "I2",
        "what is not seen is taken in an id",
        "pipeline/rows/columns.py",
        "\\u2028-\\u202e",
        "\\u2028-\\u2029",
        (_ROWS,),
    ),
    Mutation(
        "I3",
        "a day of adjoining numbers is guessed",
        "pipeline/rows/dates.py",
        "    if in_full and not in_full.fullmatch(text):\n        return None\n",
        "",
        (_ROWS,),
    ),
    Mutation(
        "I4",
        "whole columns take what the model does not",
        "pipeline/rows/columns.py",
        "accepted = found.str.contains(_PLAIN_ID)",
        "accepted = found.str.len_chars() > 0",
        (_ROWS,),
    ),
    Mutation(
        "I5",
        "a row that is too short is let through",
        "pipeline/reading/shape.py",
        "if line.count(self._delimiter) != cuts:",
        "if line.count(self._delimiter) > cuts:",
        (
            _TORN,
            _UNFIT,
        ),
    ),
    Mutation(
        "I6",
        "a quote in the middle of a cell is let through",
        "pipeline/reading/shape.py",
        "            self._refuse_stray_quote(pieces, first)\n        self",
        "            pass\n        self",
        (
            _TORN,
            _UNFIT,
        ),
    ),
    Mutation(
        "I7",
        "a torn last line is let through",
        "pipeline/reading/shape.py",
        "is_torn = bool(tail) and not torn_allowed",
        "is_torn = False",
        (_UNFIT,),
    ),
    Mutation(
        "I8",
        "text is read without its quotes",
        "pipeline/reading/read.py",
        "        infer_schema=False,\n",
        "        infer_schema=False,\n        quote_char=None,\n",
        (_TEXTS,),
    ),
    Mutation(
        "I9",
        "long cells are let through",
        "pipeline/reading/read.py",
        "    _check_bounds(frame, source, piece.first_row)\n",
        "",
        (_BOUNDS,),
    ),
    Mutation(
        "I10",
        "a dead child is taken for a good one",
        "pipeline/reading/decoding.py",
        "    if child.returncode != 0:",
        "    if child.returncode > 0:",
        (_CHILD,),
    ),
    Mutation(
        "I11",
        "the child is given the environment",
        "pipeline/reading/decoding.py",
        'env={"PYTHONPATH"',
        'env={**os.environ, "PYTHONPATH"',
        (_CHILD,),
    ),
    Mutation(
        "I12",
        "ids that were written as fractions are taken",
        "pipeline/reading/inspect.py",
        'column in found.fractional and field != "amount"',
        "False",
        (_PARQUET,),
    ),
    Mutation(
        "I20",
        "errors in a workbook pass for blanks",
        "pipeline/reading/sheets.py",
        'self.marks[cell] = text or "#ERROR"',
        "pass",
        (_WORKBOOK,),
    ),
    Mutation(
        "I21",
        "formulas without a stored value pass for blanks",
        "pipeline/reading/workbook.py",
        "if _NO_VALUE in row:",
        "if False:",
        (_WORKBOOK,),
    ),
    Mutation(
        "I22",
        "serial days of 1904 are counted from 1900",
        "pipeline/reading/workbook.py",
        "origin = datetime(1904, 1, 1)",
        "origin = datetime(1900, 1, 1)",
        (_WORKBOOK,),
    ),
    Mutation(
        "56",
        "a Date at the end of time is believed",
        _SERVER_CLOCK,
        " and at.year in _YEARS",
        "",
        ("tests/canvas/test_answers.py::test_no_date_of_a_server_ends_a_run",),
    ),
    Mutation(
        "57",
        "an id that a search shows may be any text",
        _CLIENT,
        'is_id(each["id"])',
        'isinstance(each["id"], str)',
        (
            "tests/canvas/test_answers.py::test_a_resource_without_an_id_that_can_be_trusted_fails_the_search",
        ),
    ),
    Mutation(
        "58",
        "an assertion is signed once for all tries",
        _CLIENT,
        "        began_s, tries = self._clock.monotonic(), 0\n",
        "        once = form()\n        form = lambda: once\n        began_s, tries = self._clock.monotonic(), 0\n",
        ("tests/app/test_secrets.py::test_each_try_for_a_token_is_signed_anew",),
    ),
    Mutation(
        "59",
        "what begins like this machine's address is this machine",
        "pipeline/app/config/addresses.py",
        'return url if match["host"] in LOOPBACK else None',
        'return url if match["host"].startswith("127.0.0.1") else None',
        (
            "tests/canvas/test_origins.py::test_what_looks_like_this_machine_or_is_no_address_is_refused",
        ),
    ),
    Mutation(
        "60",
        "a process that lost its lease goes on writing",
        _POSTGRES,
        "        if held.fetchone() is None:\n",
        "        if held.fetchone() is None and not lease.epoch:\n",
        (_TAKEN_OVER,),
    ),
    Mutation(
        "61",
        "what the last holder of a part left in flight is not doubted",
        _LEASES,
        """        return doubt_in_flight(journal, run_id, utc_text(at), f"part {store.part}")
""",
        """        return 0
""",
        (_TAKEN_OVER,),
    ),
    Mutation(
        "62",
        "what a process that may live can still send is sent again",
        _DECIDE,
        "    if doubt.is_orphan:\n        return False\n",
        "",
        (
            "tests/sending/test_doubt.py::test_what_a_process_that_may_live_can_still_send_is_not_sent_again",
        ),
    ),
    Mutation(
        "63",
        "a holder that may live is taken for gone",
        _POSTGRES,
        "    parts = [part for part, holder in before if not is_gone(holder)]\n",
        "    parts = list[int]()\n",
        (_ORPHANS,),
    ),
    Mutation(
        "64",
        "the command fences its workers, and their orphans are forgotten",
        _POSTGRES,
        "    _orphan(connection, [(part, holder) for part, holder in before if part != RUN])\n",
        "",
        (_ORPHANS,),
    ),
    Mutation(
        "65",
        "bytes are handed to a socket past the end of a lease",
        _POSTGRES,
        "        return self.lease is not None and self.lease.is_held()",
        "        return self.lease is not None",
        (_TAKEN_OVER,),
    ),
    Mutation(
        "66",
        "a part is taken while another worker holds it",
        _LEASES_SQL,
        """WHERE part = :part AND (holder IS NULL OR expires_at < clock_timestamp())
    AND EXISTS""",
        """WHERE part = :part
    AND EXISTS""",
        (
            "tests/journal/test_leases.py::test_a_part_has_one_holder_at_a_time_however_many_take_it",
        ),
    ),
    Mutation(
        "67",
        "a worker that wakes up takes a part of a run that has sent all",
        _LEASES_SQL,
        " AND NOT run.is_stopping)",
        ")",
        ("tests/journal/test_leases.py::test_no_part_of_a_run_that_is_to_end_is_taken",),
    ),
    Mutation(
        "68",
        "a part is renewed though its run is gone",
        _LEASES_SQL,
        "    AND (part = 0 OR EXISTS (SELECT 1",
        "    AND (part = part OR EXISTS (SELECT 1",
        ("tests/journal/test_leases.py::test_no_part_sends_for_a_run_that_is_gone",),
    ),
    Mutation(
        "69",
        "the writes of a patient are dealt to several partitions",
        _PARTITIONS,
        "task.partitions[piece_of(each.lane)] == number",
        "1 + piece_of(each.key) % len(task.parts) == number",
        ("tests/cluster/test_partitions.py::test_a_patients_writes_keep_their_order",),
    ),
    Mutation(
        "R1",
        "slots of the shared rate whose answer was lost are handed out again",
        _SHARED_RATE,
        "is_made OR asked_in IS DISTINCT FROM number AS is_new",
        "true AS is_new",
        (f"{_SHARED}::test_slots_whose_answer_was_lost_are_not_handed_out_again",),
    ),
    Mutation(
        "R2",
        "slots that a crash of the database forgot are handed out again",
        _SHARED_RATE,
        "WHEN is_restarted THEN greatest(tat, restart_at)",
        "WHEN is_restarted THEN tat",
        (f"{_SHARED}::test_after_a_restart_nothing_is_handed_out_that_may_have_been_before",),
    ),
    Mutation(
        "R3",
        "a reservation waits for the disk, under the lock that all wait for",
        "pipeline/journal/rate.sql",
        "CREATE UNLOGGED TABLE IF NOT EXISTS frame",
        "CREATE TABLE IF NOT EXISTS frame",
        (f"{_SHARED}::test_a_reservation_waits_for_no_disk",),
    ),
    Mutation(
        "R4",
        "slots of the faster pace are handed out after a 429",
        _SHARED_RATE,
        "NOT is_restarted AND cut_at = last_cut_at AND",
        "NOT is_restarted AND",
        (f"{_SHARED}::test_slots_of_the_faster_pace_are_not_handed_out_after_a_429",),
    ),
    Mutation(
        "R5",
        "a slot of the shared rate is used late",
        _SHARED_LIMITER,
        "slots = self._next_slots(most_s - _LATE_S - _WIDTH_S - self._width_s)",
        "slots = self._next_slots(-math.inf)",
        (
            "tests/cluster/test_shared_model.py::test_while_the_database_is_slow_the_slots_of_all_are_further_apart",
            f"{_SHARED}::test_one_that_was_frozen_sends_none_of_its_slots",
        ),
    ),
    Mutation(
        "R6",
        "a slot of a frame has two owners",
        "pipeline/cluster/frame.py",
        "- mine) // twice + 1 for count in self._before)",
        "- mine) // twice for count in self._before)",
        (
            "tests/cluster/test_shared_model.py::test_each_slot_of_a_frame_has_one_owner_and_each_owner_has_them_evenly",
        ),
    ),
    Mutation(
        "70",
        "a payer that is another one is no difference",
        "pipeline/fhir/coverage.py",
        '        "payor": organization_of(resource, organizations),\n',
        "",
        (
            _EDITED,
            "tests/sending/test_payer.py::test_an_edit_of_a_payer_that_is_known_is_a_conflict",
        ),
    ),
    Mutation(
        "71",
        "an update is found though Canvas shows no difference from before",
        _WEIGH,
        "if sent is not None and from_sent == () and from_before:\n",
        "if sent is not None and from_sent == ():\n        return Finding(Settlement.FOUND, 'recover|found', '', resource_id)\n    if sent is not None and from_before:\n",
        (
            "tests/sending/test_payer.py::test_a_lost_update_of_the_payer_is_never_taken_for_one_that_arrived",
        ),
    ),
    Mutation(
        "72",
        "another element proves an update whose payer is not known",
        _WEIGH,
        "return is_named or (is_ours and _has_same_payer(sent, before))",
        "return True",
        (
            "tests/sending/test_recover.py::test_an_edit_equal_to_the_other_changes_does_not_prove_an_unknown_payer",
        ),
    ),
    Mutation(
        "73",
        "a lost create is found in a coverage whose payer cannot be compared",
        _RECOVER,
        "return like, {each for each in like if payers[each] is Payers.UNKNOWN}",
        "return like, set()",
        (
            "tests/sending/test_payer.py::test_a_lost_create_is_not_found_in_a_coverage_of_another_insurer",
        ),
    ),
    Mutation(
        "G1",
        "two subscribers of one id are one",
        "pipeline/planning/subscribers.py",
        'pl.col("persons") > 1',
        'pl.col("persons") > 2',
        ("tests/planning/test_related.py::test_subscribers_are_those_that_a_person_would_find",),
    ),
    Mutation(
        "G2",
        "the subscriber of a row that Canvas refused is confirmed",
        "pipeline/journal/queries.sql",
        "WHERE subscriber.id_hash IN (SELECT value FROM json_each(:ids)) AND write.resource_id IS NOT NULL",
        "WHERE subscriber.id_hash IN (SELECT value FROM json_each(:ids))",
        (
            "tests/commands/test_dependents.py::test_a_subscriber_whom_canvas_refused_is_none_of_later_files",
        ),
    ),
    Mutation(
        "G3",
        "a subscriber of an earlier file outlasts an unchanged row of a later one",
        "pipeline/planning/plan.py",
        '~pl.col("subscriber").is_in(passed_on.implode())',
        "pl.lit(value=True)",
        (
            "tests/commands/test_dependents.py::test_a_change_file_between_two_whole_files_does_not_outlast_them",
        ),
    ),
    Mutation(
        "G4",
        "a rejected row gives its order to another one",
        "pipeline/planning/passes/relate.py",
        "is_fixed = rank is not None and not (row.is_good and feeds[row.feed].update)",
        "is_fixed = False",
        (
            "tests/commands/test_sequence.py::test_a_rejected_row_keeps_the_order_of_its_coverage_and_a_new_one_takes_none",
        ),
    ),
    Mutation(
        "G5",
        "a file that lacks rows moves those that it has",
        "pipeline/planning/passes/relate.py",
        "key not in first and not (is_whole and feed in whole)",
        "key not in first and not is_whole",
        ("tests/commands/test_sequence.py::test_files_that_lack_rows_move_nothing",),
    ),
    Mutation(
        "74",
        "a lost create is found in a coverage of another payer",
        _RECOVER,
        "if payers[each] is not Payers.OTHER}",
        "}",
        ("tests/sending/test_payer.py::test_a_lost_create_is_settled_by_a_payer_that_is_known",),
    ),
    Mutation(
        "75",
        "a coverage is taken over though its payer cannot be compared",
        "pipeline/planning/adopt.py",
        "pairs[payers].append((row.number, resource_id))",
        "pairs[Payers.SAME].append((row.number, resource_id))",
        (
            "tests/sending/test_payer.py::test_a_coverage_whose_payer_may_be_another_one_is_not_taken_over",
        ),
    ),
    Mutation(
        "76",
        "of a payer id with several Organizations one is taken",
        "pipeline/fhir/coverage.py",
        "return {each: found[each] for each in found if each not in several}",
        "return {each: found[each] for each in found}",
        (
            "tests/sending/test_recover.py::test_a_payer_id_that_was_shown_as_two_organizations_is_not_known",
        ),
    ),
    Mutation(
        "77",
        "a run goes on however many rows were probably sent before",
        "pipeline/planning/limits.py",
        'if meta["repeats"]["rows"] > _repeats_allowed(',
        "if 0 > _repeats_allowed(",
        (
            "tests/planning/test_identity.py::test_a_changed_key_stops_before_anything_is_sent",
            "tests/planning/test_identity.py::test_a_renamed_feed_stops_before_anything_is_sent",
        ),
    ),
    Mutation(
        "78",
        "the order of the fields is part of the key",
        "pipeline/planning/keys.py",
        "    if known is not None and set(known) == set(feed.key):\n        return known\n",
        "    if feed.key:\n        return feed.key\n",
        (
            "tests/planning/test_identity.py::test_the_order_of_the_fields_in_a_key_is_no_part_of_it",
        ),
    ),
    Mutation(
        "79",
        "the delivery is no part of a counted row's identity",
        "pipeline/rows/feed.py",
        "for text in (feed.name, *reading.delivery)]",
        "for text in (feed.name,)]",
        ("tests/planning/test_deliveries.py::test_equal_rows_of_two_increments_are_two_payments",),
    ),
    Mutation(
        "80",
        "the last day is off by one",
        "pipeline/planning/end_days.py",
        "return today - timedelta(days=1)",
        "return today",
        (f"{_ENDS}::test_what_is_gone_gets_its_last_day[day_before-2026-12-01-warnings0]",),
    ),
    Mutation(
        "80b",
        "the last day is the one in UTC wherever the practice is",
        "pipeline/planning/state.py",
        "return self.now.astimezone(ZoneInfo(feed.timezone)).date() if feed.timezone else self.today",
        "return self.today",
        (f"{_ENDS}::test_the_day_of_a_run_is_the_day_of_the_practice",),
    ),
    Mutation(
        "81",
        "an end that was not sent gets another day on the next night",
        "pipeline/planning/missing.py",
        "day = date.fromisoformat(chosen) if chosen else gone.end_on",
        "day = gone.end_on",
        (f"{_ENDS}::test_a_run_that_was_stopped_goes_on_with_its_day",),
    ),
    Mutation(
        "82",
        "who has ended is gone again each night",
        _QUERIES,
        "AND resource_id IS NOT NULL AND held_rank IS NOT NULL AND held_end IS NULL AND held IS NOT NULL;",
        "AND resource_id IS NOT NULL AND held_rank IS NOT NULL AND held IS NOT NULL;",
        (f"{_ENDS}::test_an_end_stays_whatever_the_later_nights_are",),
    ),
    Mutation(
        "83",
        "who is back counts as unchanged, and stays ended",
        _QUERIES,
        "held = CASE :state WHEN 'CONFIRMED' THEN fingerprint ELSE held END,",
        "held = CASE WHEN :state = 'CONFIRMED' AND end_on IS NULL THEN fingerprint ELSE held END,",
        (f"{_ENDS}::test_who_is_back_is_open_again",),
    ),
    Mutation(
        "84",
        "a coverage that was moved is ended with the order that another one has now",
        "pipeline/planning/missing.py",
        'order = gone.orders.get(key, content["order"])',
        'order = content["order"]',
        (f"{_ENDS}::test_an_end_of_a_coverage_that_was_moved_moves_no_other",),
    ),
    Mutation(
        "85",
        "what ends counts as having no order",
        "pipeline/planning/passes/turns.py",
        "rank = sent.get(key, order)",
        "rank = None if key in sent else order",
        (f"{_ENDS}::test_an_end_takes_its_order_from_no_one",),
    ),
    Mutation(
        "86",
        "a period that has not begun is ended before its start",
        "pipeline/planning/missing.py",
        "if rule or (start and start <= day):",
        "if rule or start:",
        (f"{_ENDS}::test_what_has_not_begun_is_left_to_a_person",),
    ),
    Mutation(
        "834-1",
        "a file of changes ends who is not in it",
        "pipeline/planning/passes/gone.py",
        "    if build.has_changes_only(feed.name):\n        return None\n",
        "    if False:\n        return None\n",
        (
            "tests/planning/test_enrollments.py::test_a_file_of_changes_ends_nobody_and_the_next_full_file_knows_it",
        ),
    ),
    Mutation(
        "834-2",
        "an older interchange replaces newer content",
        "pipeline/planning/interchanges.py",
        "    if loaded:\n",
        "    if False:\n",
        ("tests/planning/test_interchanges.py::test_what_was_loaded_before",),
    ),
    Mutation(
        "834-6",
        "a control number that does not change lets an older file in",
        "pipeline/planning/interchanges.py",
        "if not _is_later(file, same):",
        "if False:",
        ("tests/planning/test_interchanges.py::test_what_was_loaded_before",),
    ),
    Mutation(
        "834-3",
        "what pyx12 finds of counts and control numbers is ignored",
        "pipeline/reading/x12.py",
        "if code != _TRAILING:",
        "if False:",
        ("tests/proof/test_input.py::test_damaged_enrollments_are_refused_or_read_as_they_are",),
    ),
    Mutation(
        "834-4",
        "a segment may be anywhere",
        "pipeline/reading/x12.py",
        "if begun is None and name not in _STAYS[self.loop]:",
        "if False:",
        ("tests/proof/test_input.py::test_damaged_enrollments_are_refused_or_read_as_they_are",),
    ),
    Mutation(
        "834-5",
        "an SSN that is written as another id is kept",
        "pipeline/reading/x12.py",
        "if any(each in digits for each in hidden):",
        "if False:",
        ("tests/reading/test_x12.py::test_no_ssn_is_in_a_row",),
    ),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of a mutation: `by` is the test that turned red, or why none did."""

    mutation: Mutation
    is_seen: bool
    by: str
    took_s: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proof.mutations", description=__doc__)
    parser.add_argument("numbers", nargs="*", help="faults to plant; else all")
    numbers = parser.parse_args().numbers
    if unknown := set(numbers) - {each.number for each in MUTATIONS}:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    asked = [each for each in MUTATIONS if not numbers or each.number in numbers]
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        folder = Path(name).resolve()
        whole = folder / "whole"
        _copy(_ROOT, whole)
        if problems := _problems(asked, whole):
            _tell(*problems)
            return 1
        tests = list(dict.fromkeys(test for each in asked for test in each.tests))
        began_s = time.monotonic()
        is_green, by = _tested(whole, tests)
        if not is_green:
            _tell(f"without any fault, this is not green: {by}")
            return 1
        _tell(f"without any fault, {len(tests)} named tests are green: {_since(began_s):.0f} s")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = []
            for seen in pool.map(partial(_planted, whole, folder), asked):
                _tell(_row(seen))
                found.append(seen)
    unseen = [each.mutation.number for each in found if not each.is_seen]
    _tell(f"{len(found)} faults planted, unseen: {', '.join(unseen) or 'none'}")
    return 1 if unseen else 0


def _row(seen: Seen) -> str:
    mutation = seen.mutation
    mark = "" if seen.is_seen else "UNSEEN "
    return f"{mutation.number:>3}  {mutation.fault:<76}  {mutation.file:<33}  {seen.took_s:5.1f} s  {mark}{seen.by}"


def _problems(mutations: Sequence[Mutation], root: Path) -> list[str]:
    """Return what is wrong with the edits: their text is not in its file exactly once, or the result is no code."""
    found = []
    for each in mutations:
        try:
            planted = each.plant((root / each.file).read_text())
            if each.file.endswith(".py"):
                ast.parse(planted)
        except StaleError as error:
            found.append(str(error))
        except SyntaxError as error:
            found.append(f"{each.number}: with it, {each.file} is no Python: {error}")
    return found


def _planted(whole: Path, folder: Path, mutation: Mutation) -> Seen:
    """Plant a mutation in a copy of its own, and find the test that turns red."""
    began_s = time.monotonic()
    root = folder / mutation.number
    _copy(whole, root)
    file = root / mutation.file
    file.write_text(mutation.plant(file.read_text()))
    is_green, by = _tested(root, mutation.tests)
    shutil.rmtree(root)
    return Seen(mutation, not is_green and not by.startswith("?"), by, _since(began_s))


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for name in _COPIED:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source / name, target / name, ignore=ignored)
        else:
            shutil.copy(source / name, target / name)


def _tested(root: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Return whether the tests are green there; and the first that is not, "?..." if none could be run."""
    imported, _ = _ran(root, "-c", "import pipeline; print(pipeline.__file__)")
    if not imported.startswith(f"{root}{os.sep}"):
        return False, f"? another tree is imported: {imported.strip()}"
    options = (
        "-x",
        "-q",
        "--tb=no",
        "-rfE",
        "-p",
        "no:cacheprovider",
        f"--basetemp={root / 'temp'}",
        "--hypothesis-seed=0",
    )
    shown, code = _ran(root, "-m", "pytest", *options, *tests)
    if code is None:
        return False, "hung"
    if code != _RED:
        return code == 0, "all are green" if code == 0 else f"? no test could be run: {shown}"
    lines = [line.split(" ", 1) for line in shown.splitlines()]
    red = [rest[0].split(" - ")[0] for word, *rest in lines if word in {"FAILED", "ERROR"} and rest]
    return False, red[0] if red else f"? no test is named: {shown}"


def _ran(root: Path, *arguments: str) -> tuple[str, int | None]:
    """Run Python in that tree. Returns its output and its exit code, None if it hung."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments], cwd=root, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        shown, _ = process.communicate(timeout=_HANGS_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "", None
    return shown, process.returncode


def _since(began_s: float) -> float:
    return time.monotonic() - began_s


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

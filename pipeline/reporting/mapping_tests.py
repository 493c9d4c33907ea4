"""The output of `test`: a line for each test that failed, and JUnit XML for a CI."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.records import counted
from pipeline.reporting.masking import shown


def outcomes_text(result: Mapping[str, Any], config: str, given: str = "") -> str:
    """Return the output for the result of `test` as JSON; `given`: the options that named feeds."""
    failed = [each for each in result["tests"] if not each["passed"]]
    lines = [
        f"{_where(each, result)}, {_title(each)}: {'; '.join(each['differences'])}"
        for each in failed
    ]
    tests, passed = len(result["tests"]), result["counts"]["passed"]
    if not failed:
        return f"{counted(tests, 'test')} passed."
    counts = f"{counted(tests, 'test')}: {passed:,} passed, {len(failed):,} failed."
    lines.append(f"{counts} Next, once the mapping or the test is corrected:")
    return "\n".join([*lines, f"  canvas-ingest test {config}{given}"])


def junit(result: Mapping[str, Any]) -> bytes:
    """Return the result of `test` as JUnit XML: a suite a configuration, a case a test."""
    counts = {
        "tests": str(len(result["tests"])),
        "failures": str(result["counts"]["failed"]),
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }
    root = Element("testsuites", counts)
    suite = SubElement(root, "testsuite", {"name": result["config"], **counts})
    for each in result["tests"]:
        case = {
            "classname": shown(f"{result['config'].removesuffix('.toml')}.{each['feed']}"),
            "name": shown(each["name"] or f"tests[{each['number']}]"),
            "file": shown(result["config"]),
            "time": "0",
        }
        if each["line"]:
            case["line"] = str(each["line"])
        element = SubElement(suite, "testcase", case)
        if not each["passed"]:
            lines = [shown(line) for line in each["differences"]]
            failure = SubElement(element, "failure", {"message": lines[0], "type": "mapping"})
            failure.text = "\n".join([_where(each, result), *lines])
    indent(root)
    return b"\n".join([tostring(root, encoding="utf-8", xml_declaration=True), b""])


def _where(test: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    line = test["line"]
    return f"{result['config']}:{line}" if line else f"{result['config']} tests[{test['number']}]"


def _title(test: Mapping[str, Any]) -> str:
    return f'{test["feed"]} "{test["name"]}"' if test["name"] else str(test["feed"])

"""Counts the targets of a `bazel test`: N passed, N failed, N skipped.

Usage: test_summary.py EVENTS STATUS

EVENTS is what --build_event_json_file wrote, STATUS what Bazel exited with. A
test that has no verdict failed: it did not build, or the run was cut short. So
did a target of another kind that did not build. A test is skipped if it does
not fit this configuration, if a filter left it out, or if it passed by skipping
every case that it has (no GPU).
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree


def skipped_every_case(test_xml_uri):
    path = urllib.parse.unquote(urllib.parse.urlparse(test_xml_uri).path)
    try:
        cases = list(xml.etree.ElementTree.parse(path).iter("testcase"))
    except (OSError, xml.etree.ElementTree.ParseError):
        return False
    ran = [case for case in cases if case.get("status") == "run"]
    return bool(ran) and all(case.get("result") == "skipped" for case in ran)


def count(events):
    """Returns the labels that passed, failed and were skipped, as three sets."""
    tests, others, built, passed, skipped = (set() for _ in range(5))
    for event in events:
        kind, id_ = next(iter(event["id"].items()), ("", {}))
        label = id_.get("label")
        if kind == "targetConfigured":
            configured = event.get("configured", {})
            (tests if "testSize" in configured else others).add(label)
        elif kind == "targetCompleted":
            if event.get("aborted", {}).get("reason") == "SKIPPED":
                skipped.add(label)
            elif event.get("completed", {}).get("success"):
                built.add(label)
                # What is to run announces its summary.
                if not any("testSummary" in child for child in event.get("children", [])):
                    skipped.add(label)
        elif kind == "testSummary":
            # FLAKY: failed, then passed, as often as its target allows.
            if event["testSummary"]["overallStatus"] in ("PASSED", "FLAKY"):
                passed.add(label)
        elif kind == "testResult":
            for output in event["testResult"].get("testActionOutput", []):
                if output["name"] == "test.xml" and skipped_every_case(output["uri"]):
                    skipped.add(label)
    failed = (tests - passed - skipped) | (others - built - skipped)
    return (tests & passed) - skipped, failed, tests & skipped


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        passed, failed, skipped = count(json.loads(line) for line in file)
    if sys.argv[2] != "0" and not failed:
        failed.add("bazel, see above")  # Such as a BUILD file that does not parse.
    for label in sorted(failed):
        print(f"FAILED {label}")
    print(f"{len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped")


if __name__ == "__main__":
    main()

"""What an operator looks at says what it means, and an alert says where to read on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "configs/grafana/dashboards/circuit-breaker-dashboard.json"
RULES = ROOT / "configs/prometheus/rules/fallthrough.yml"
TESTS = ROOT / "configs/prometheus/tests/fallthrough.yml"


def alerts():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_panel_has_a_description():
    panels = [p for p in json.loads(DASHBOARD.read_text())["panels"] if p["type"] != "row"]
    assert len(panels) > 20
    assert [panel["title"] for panel in panels if not panel.get("description")] == []


def test_every_alert_leads_to_a_section_of_a_page():
    for alert in alerts():
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in titles}
        assert anchor in anchors, alert["alert"]


def test_every_alert_fires_in_a_test_of_the_rules():
    fired = set()
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        fired |= {each["alertname"] for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert {alert["alert"] for alert in alerts()} - fired == set()

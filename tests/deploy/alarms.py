"""Alarms and the dashboard: what is counted, who looks at it, and whom an alarm tells."""

import json
import re

from frame import OTHER_LEDGER, OTHER_TABLE, of_type
from roles import resource_name

# The dimensions with which AWS keeps the metrics that are looked at here. With any others there is nothing to see.
DIMENSIONS = {
    ("AWS/ApiGateway", "Count"): {("ApiName",)},
    ("AWS/ApiGateway", "4XXError"): {("ApiName",)},
    ("AWS/ApiGateway", "5XXError"): {("ApiName",)},
    ("AWS/ApiGateway", "Latency"): {("ApiName",)},
    ("AWS/DynamoDB", "ConsumedReadCapacityUnits"): {("TableName",)},
    ("AWS/DynamoDB", "ConsumedWriteCapacityUnits"): {("TableName",)},
    ("AWS/DynamoDB", "ReadThrottleEvents"): {("TableName",)},
    ("AWS/DynamoDB", "WriteThrottleEvents"): {("TableName",)},
    ("AWS/Lambda", "Duration"): {("FunctionName",)},
    ("AWS/Lambda", "Errors"): {("FunctionName",)},
    ("AWS/Lambda", "Invocations"): {("FunctionName",)},
    ("AWS/Lambda", "Throttles"): {("FunctionName",), ()},
}
OWN = {"Fn::Sub": "Theazo/${Deployment}"}
# The lines that are counted, by metric. `counted.rs` holds them against the lines that functions write.
RUN = '{ ($.message = "a scheduled run is done") }'
LINES = {
    "StoreErrors": '{ ($.message = "the store failed") || ($.message = "log entries are lost") }',
    "KmsErrors": '{ ($.message = "the key service refused") }',
    "ReconcileRuns": RUN,
    "UpkeepRuns": RUN,
    "RotationErrors": '{ ($.message = "a rotation could not go on") || '
    '($.message = "values do not open and keep an old key") }',
}
ABOVE, AT_LEAST, BELOW = "GreaterThanThreshold", "GreaterThanOrEqualToThreshold", "LessThanThreshold"


def when(comparison, threshold, periods, missing="notBreaching"):
    return {
        "ComparisonOperator": comparison,
        "Threshold": threshold,
        "EvaluationPeriods": periods,
        "TreatMissingData": missing,
    }


def dimensions(given):
    return [{"Name": name, "Value": value} for name, value in given.items()]


def one(namespace, metric, statistic, period, by, *rule):
    """An alarm of one metric."""
    out = {"Namespace": namespace, "MetricName": metric, "Statistic": statistic, "Period": period, **when(*rule)}
    return {**out, "Dimensions": dimensions(by)} if by else out


def several(function, namespace, statistic, metrics, *rule):
    """An alarm of a figure that is made of several metrics, by five minutes each."""
    name = {"SUM": "throttles", "MAX": "slowest"}[function]
    combined = {"Id": name, "Expression": f"{function}([{', '.join(metrics)}])", "ReturnData": True}
    parts = [
        {
            "Id": name,
            "ReturnData": False,
            "MetricStat": {
                "Period": 300,
                "Stat": statistic,
                "Metric": {"Namespace": namespace, "MetricName": metric, "Dimensions": dimensions(by)},
            },
        }
        for name, (metric, by) in metrics.items()
    ]
    return {"Metrics": [combined, *parts], **when(*rule)}


def of_function(metric, function):
    return metric, {"FunctionName": {"Ref": resource_name(function) + "Function"}}


def expected(known):
    """Every alarm, but for its name, its description and whom it tells."""
    api = {"ApiName": {"Ref": "Deployment"}}
    reconcile, upkeep = of_function("Errors", "reconcile")[1], of_function("Errors", "upkeep")[1]
    # Every answer that waits for a provider to change something and comes as a whole: as many as one alarm may look at.
    slow = {name: "agents-" + name for name in ["create", "pause", "resume", "restart", "terminate", "retry"]}
    slow["checkpoint"] = "agents-checkpoints-create"
    slow.update({name + "All": "sessions-" + name for name in ["pause", "resume", "terminate"]})
    waiting = {name: of_function("Duration", function) for name, function in slow.items()}
    # Functions whose concurrency is the deployment's to choose. A scheduled run that finds others before it is told of by
    # their lag.
    reserved = {"execs": "agents-exec", "logs": "logs-stream", "agents": "agents-logs-stream"}
    reserved = {name: of_function("Throttles", function) for name, function in reserved.items()}
    throttled = {
        "reads": ("ReadThrottleEvents", {"TableName": OTHER_TABLE}),
        "writes": ("WriteThrottleEvents", {"TableName": OTHER_TABLE}),
        "ledgerReads": ("ReadThrottleEvents", {"TableName": OTHER_LEDGER}),
        "ledgerWrites": ("WriteThrottleEvents", {"TableName": OTHER_LEDGER}),
    }
    run = {"Function": "reconcile"}
    return {
        "server-errors": one("AWS/ApiGateway", "5XXError", "Average", 300, api, ABOVE, 0.01, 1),
        "table-throttles": several("SUM", "AWS/DynamoDB", "Sum", throttled, ABOVE, 0, 1),
        "kms-errors": one(OWN, "KmsErrors", "Sum", 300, {}, ABOVE, 0, 1),
        # What fails in every run of a quarter of an hour, and not one call that was refused once.
        "rotation-errors": one(OWN, "RotationErrors", "Sum", 900, {}, AT_LEAST, 3, 1),
        "store-errors": one(OWN, "StoreErrors", "Sum", 300, {}, ABOVE, 0, 1),
        # As many as a run may remove, and not a run that had fewer.
        "orphans": one(OWN, "Orphans", "Maximum", 60, run, AT_LEAST, known["max_orphans"], 1),
        "slow-answers": several("MAX", "AWS/Lambda", "p99", waiting, ABOVE, 20000, 3),
        # What does not run counts nothing, so that nothing is counted is the very thing to tell of.
        "reconcile-lag": one(OWN, "ReconcileRuns", "Sum", 300, {}, BELOW, 1, 1, "breaching"),
        # What is promised of limits and timeouts is two minutes.
        "enforcement-lag": one(OWN, "Lag", "Maximum", 300, run, ABOVE, 120000, 1),
        "reconcile-errors": one("AWS/Lambda", "Errors", "Sum", 600, reconcile, AT_LEAST, 2, 1),
        "upkeep-errors": one("AWS/Lambda", "Errors", "Sum", 300, upkeep, AT_LEAST, 3, 2),
        "reserved-throttles": several("SUM", "AWS/Lambda", "Sum", reserved, ABOVE, 0, 1),
        "account-throttles": one("AWS/Lambda", "Throttles", "Sum", 300, {}, ABOVE, 10, 1),
    }


def check(resources, known, faults):
    counted = counting(resources, known, faults)
    looked_at = set()
    alarms(resources, known, faults)
    metrics(resources, known, counted, looked_at, faults)
    dashboard(resources, known, counted, looked_at, faults)
    for metric in sorted(counted - looked_at):
        faults.append(f"{metric} is counted, and nobody looks at it")


def counting(resources, known, faults):
    """Each function's lines are counted, of whatever it may have to tell: failures of what it calls, and runs."""
    found, wanted = of_type(resources, "AWS::Logs::MetricFilter"), {}
    for function in [route["name"] for route in known["routes"]] + known["scheduled"]:
        calls = known["permissions"].get(function, {})
        counts = {"StoreErrors": "data" in calls, "KmsErrors": "kms" in calls}
        is_upkeep = function == "upkeep"
        counts.update({"ReconcileRuns": function == "reconcile", "UpkeepRuns": is_upkeep, "RotationErrors": is_upkeep})
        for metric in (metric for metric, is_counted in counts.items() if is_counted):
            name = resource_name(function)
            transformation = {"MetricNamespace": OWN, "MetricName": metric, "MetricValue": "1"}
            wanted[name + metric] = {
                "LogGroupName": {"Ref": name + "Log"},
                "FilterPattern": LINES[metric],
                "MetricTransformations": [transformation],
            }
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            faults.append(f"{name} is {'missing' if name not in found else 'another count than it should be'}")
    return {t["MetricName"] for one in found.values() for t in one["MetricTransformations"]}


def alarms(resources, known, faults):
    found, metrics = {}, 0
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        called = str(alarm.get("AlarmName", {}).get("Fn::Sub")).removeprefix("${Deployment}-")
        found[called] = {k: v for k, v in alarm.items() if k not in ("AlarmName", "AlarmDescription", "AlarmActions")}
        stats = [part for part in alarm.get("Metrics", [{}, None]) if part is None or "MetricStat" in part]
        metrics += len(stats)
        if alarm.get("AlarmActions") != [{"Ref": "AlarmTopic"}]:
            faults.append(f"{name} tells nobody")
        if not alarm.get("AlarmDescription"):
            faults.append(f"{name} does not say what it means")
        if "Condition" in resources[name]:
            faults.append(f"{name} is there only sometimes")
    wanted = expected(known)
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            faults.append(f"there is no alarm {name}")
        elif found[name] != wanted.get(name):
            has = wanted.get(name, {})
            parts = sorted(p for p in found[name].keys() | has.keys() if found[name].get(p) != has.get(p))
            faults.append(f"the alarm {name} has other {', '.join(parts)}")
    # The guide has a line for each, and reckons what they cost.
    guide = known["guide"]
    table = re.search(r"\n\| alarm \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", guide)
    lines = re.findall(r"^\| `([a-z-]+)` \|", table.group(1), re.MULTILINE) if table else []
    if sorted(lines) != sorted(found):
        faults.append(f"the guide's alarms are others: {sorted(set(lines) ^ set(found))}")
    own = len(LINES) + sum(len(figure["by"]) for figure in known["figures"])
    for reckoned in [f"each metric of the {len(found)} alarms ({metrics} in all)", f"each of up to {own} metrics of its own"]:
        if reckoned not in " ".join(guide.split()):
            faults.append(f"the guide's costs do not say: {reckoned}")
    topic = resources["AlarmTopic"]["Properties"]
    if topic != {"TopicName": {"Fn::Sub": "${Deployment}-alarms"}}:
        faults.append(f"alarms go to {topic}")
    by_email = {"TopicArn": {"Ref": "AlarmTopic"}, "Protocol": "email", "Endpoint": {"Ref": "AlarmEmail"}}
    subscription = resources.get("AlarmByEmail", {})
    if (subscription.get("Properties"), subscription.get("Condition")) != (by_email, "HasAlarmEmail"):
        faults.append("alarms are not sent to the address that was given")


def look(where, seen, known, counted, looked_at, faults):
    """Whether there is such a metric by these dimensions."""
    namespace, metric, by = seen
    if namespace in (OWN, OWN["Fn::Sub"]):
        looked_at.add(metric)
        # Functions write figures themselves; what they do not is counted of their lines, by no dimension.
        written = [dict([pair]) for figure in known["figures"] if figure["metric"] == metric for pair in figure["by"]]
        if by not in written if by else metric not in counted:
            faults.append(f"{where} looks at {metric}, which nothing counts so")
    elif tuple(sorted(by)) not in DIMENSIONS.get((namespace, metric), set()):
        faults.append(f"{where} looks at {namespace} {metric} by {sorted(by)}, of which there is none")


def metrics(resources, known, counted, looked_at, faults):
    """Alarms look at metrics that there are."""
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        stats = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m] or [alarm]
        for stat in stats:
            by = {d["Name"]: d["Value"] for d in stat.get("Dimensions", [])}
            look(name, (stat["Namespace"], stat["MetricName"], by), known, counted, looked_at, faults)
            function = by.get("FunctionName", {"Ref": "HealthFunction"})["Ref"]
            if resources.get(function, {}).get("Type") != "AWS::Lambda::Function":
                faults.append(f"{name} looks at {function}")
            if by.get("TableName", OTHER_TABLE) not in (OTHER_TABLE, OTHER_LEDGER):
                faults.append(f"{name} looks at {by['TableName']}")


def widgets(known):
    """What the dashboard shows: title, statistic, and the metrics, each with the last of what it is told apart by."""
    kinds = ["read", "write", "compute", "stream"]
    functions = [route["name"] for route in known["routes"]] + known["scheduled"]
    functions = ["${Deployment}_" + function for function in functions]
    own = OWN["Fn::Sub"]
    run = [(own, figure["metric"], "reconcile") for figure in known["figures"] if figure["by"][0][0] == "Function"]
    table = ["ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits", "ReadThrottleEvents", "WriteThrottleEvents"]
    api = [("AWS/ApiGateway", metric, "${Deployment}") for metric in ("Count", "4XXError", "5XXError")]
    runs = [(own, "ReconcileRuns", None), (own, "UpkeepRuns", None)]
    runs += [("AWS/Lambda", "Errors", f"${{{function}Function}}") for function in ("Reconcile", "Upkeep")]
    return [
        ("Requests and refusals", "Sum", api),
        ("Latency (ms)", None, [("AWS/ApiGateway", "Latency", "${Deployment}")] * 3),
        ("Data table", "Sum", [("AWS/DynamoDB", metric, "${Data}") for metric in table]),
        ("Reconciling and upkeep", "Sum", runs),
        ("Key service and store", "Sum", [(own, "KmsErrors", None), (own, "StoreErrors", None)]),
        ("A run of reconciling", "Maximum", run),
        ("Time to answer (ms, p99)", "p99", [(own, "Latency", kind) for kind in kinds]),
        ("Sequential round trips", "Maximum", [(own, "RoundTrips", kind) for kind in kinds]),
        ("Answers that were not the caller's fault", "Sum", [(own, "Errors", kind) for kind in kinds]),
        ("Functions: errors", "Sum", [("AWS/Lambda", "Errors", function) for function in functions]),
        ("Functions: throttles", "Sum", [("AWS/Lambda", "Throttles", function) for function in functions]),
    ]


def dashboard(resources, known, counted, looked_at, faults):
    [dashboard] = of_type(resources, "AWS::CloudWatch::Dashboard").values()
    text, own = dashboard["DashboardBody"]["Fn::Sub"]
    if own != {"Data": OTHER_TABLE}:
        faults.append(f"the dashboard's table is {own}")
    shown, found, statistics = {}, [], []
    for widget in json.loads(text)["widgets"]:
        row, seen = [], []
        for whole in widget["properties"]["metrics"]:
            line = [part for part in whole if isinstance(part, str)]
            if line[:1] == ["..."]:
                line = row[: len(row) - len(line) + 1] + line[1:]
            line = [row[index] if part == "." else part for index, part in enumerate(line)]
            row = line
            by = dict(zip(line[2::2], line[3::2]))
            look("the dashboard", (line[0], line[1], by), known, counted, looked_at, faults)
            seen.append((line[0], line[1], line[3] if by else None))
            statistics += [part["stat"] for part in whole if isinstance(part, dict) and "stat" in part]
            if line[2:3] == ["FunctionName"]:
                shown.setdefault((widget["properties"]["title"], line[1]), []).append(line[3])
        properties = widget["properties"]
        found.append((properties["title"], properties.get("stat"), seen))
        if properties.get("region") != "${AWS::Region}" or properties.get("period") != 60:
            faults.append(f"the dashboard's {properties['title']} is of another region or time")
    wanted = ["${Deployment}_" + route["name"] for route in known["routes"]]
    wanted += ["${Deployment}_" + function for function in known["scheduled"]]
    for title, metric in [("Functions: errors", "Errors"), ("Functions: throttles", "Throttles")]:
        if shown.get((title, metric)) != wanted:
            faults.append(f"the dashboard does not show every function's {metric}")
    for title in [title for title, *_ in widgets(known)]:
        has = [w for w in found if w[0] == title]
        if has != [w for w in widgets(known) if w[0] == title]:
            faults.append(f"the dashboard's {title} shows something else")
    if [title for title, *_ in found] != [title for title, *_ in widgets(known)]:
        faults.append(f"the dashboard shows {[title for title, *_ in found]}")
    table = known["guide"].partition("\n| picture |")[2].partition("\n\n")[0]
    lines = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    if lines != [title for title, *_ in found]:
        faults.append(f"the guide explains other pictures than the dashboard has: {lines}")
    if statistics != ["p50", "p95", "p99"]:
        faults.append(f"the dashboard's latencies are {statistics}")

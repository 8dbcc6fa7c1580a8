"""The frame around the functions: gateway, tables, functions' settings, alarms and dashboard."""

import json

from roles import resource_name

# What the access log says of a request: neither its path nor its query, in which a token or a user's id may stand.
LOGGED = {
    "requestId": "$context.requestId",
    "route": "$context.resourcePath",
    "method": "$context.httpMethod",
    "status": "$context.status",
    "sourceIp": "$context.identity.sourceIp",
    "latencyMs": "$context.responseLatency",
    "bytes": "$context.responseLength",
}
# Answers that the gateway gives by itself: our code, and the status where it is not the gateway's own.
RESPONSES = {
    "DEFAULT_4XX": ("invalid_request", None),
    "DEFAULT_5XX": ("internal_error", None),
    "MISSING_AUTHENTICATION_TOKEN": ("not_found", "404"),
    "REQUEST_TOO_LARGE": ("invalid_request", "400"),
    "THROTTLED": ("rate_limited", "429"),
}
ORIGIN = {"Fn::Sub": "'${CorsOrigin}'"}
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
BUFFERED_S, STREAM_S, SCHEDULED_S = 29, 900, 120


def of_type(resources, kind):
    return {name: r["Properties"] for name, r in resources.items() if r["Type"] == kind}


def check(resources, known, faults):
    gateway(resources, faults)
    functions(resources, known, faults)
    for name, table in of_type(resources, "AWS::DynamoDB::Table").items():
        for what, holds in [
            ("expiry", table.get("TimeToLiveSpecification") == {"AttributeName": "ttl", "Enabled": True}),
            ("backups", table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled") is True),
            ("protection", table.get("DeletionProtectionEnabled") is True),
            ("billing", table.get("BillingMode") == "PAY_PER_REQUEST"),
        ]:
            if not holds:
                faults.append(f"{name}: {what}")
    metrics(resources, known, faults)


def gateway(resources, faults):
    for name, deployment in of_type(resources, "AWS::ApiGateway::Deployment").items():
        if "StageName" in deployment:
            faults.append(f"{name} makes a second stage, {deployment['StageName']}")
    stages = of_type(resources, "AWS::ApiGateway::Stage")
    if [stage["StageName"] for stage in stages.values()] != ["live"]:
        faults.append(f"stages: {stages.keys()}")
    for stage in stages.values():
        if json.loads(stage.get("AccessLogSetting", {}).get("Format", "null")) != LOGGED:
            faults.append("the access log says something else")
        wanted = {
            "ResourcePath": "/*",
            "HttpMethod": "*",
            "ThrottlingRateLimit": {"Ref": "StageRequestsPerSecond"},
            "ThrottlingBurstLimit": {"Ref": "StageBurst"},
            "MetricsEnabled": True,
            "LoggingLevel": "OFF",
            "DataTraceEnabled": False,
        }
        if stage.get("MethodSettings") != [wanted]:
            faults.append("the stage's throttles or logs differ")
        if stage.get("TracingEnabled") or stage.get("CacheClusterEnabled"):
            faults.append("the stage traces or caches")
    [api] = of_type(resources, "AWS::ApiGateway::RestApi").values()
    body = api["Body"]
    answers = body.get("x-amazon-apigateway-gateway-responses", {})
    if answers.keys() != RESPONSES.keys():
        faults.append(f"the gateway's own answers: {sorted(answers)}")
    for name, answer in answers.items():
        told = json.loads(answer["responseTemplates"]["application/json"])
        error = told.get("error", {})
        code, status = RESPONSES.get(name, (None, None))
        is_ours = told.keys() == {"error", "requestId"} and error.keys() == {"code", "message", "details", "requestId"}
        if not is_ours or error["code"] != code or answer.get("statusCode") != status:
            faults.append(f"the gateway's {name} is not an error of ours")
        if answer["responseParameters"].get("gatewayresponse.header.Access-Control-Allow-Origin") != ORIGIN:
            faults.append(f"pages cannot read the gateway's {name}")
    for path, methods in body["paths"].items():
        asked = json.dumps(methods.get("options", {}))
        if json.dumps(ORIGIN) not in asked:
            faults.append(f"browsers are told nothing of {path}")
        for method, spec in methods.items():
            integration = spec["x-amazon-apigateway-integration"]
            if method == "options":
                continue
            streams = integration.get("responseTransferMode") == "STREAM"
            if integration.get("timeoutInMillis") != 1000 * (STREAM_S if streams else BUFFERED_S):
                faults.append(f"{method} {path} is given up on after {integration.get('timeoutInMillis')} ms")


def functions(resources, known, faults):
    routes = {route["name"]: route for route in known["routes"]}
    for function in list(routes) + known["scheduled"]:
        name = resource_name(function)
        properties = resources[name + "Function"]["Properties"]
        route = routes.get(function)
        streams = route is not None and route["streams"]
        timeout = SCHEDULED_S if route is None else STREAM_S if streams else BUFFERED_S
        if properties["Timeout"] != timeout:
            faults.append(f"{function} is cut off after {properties['Timeout']} s")
        reserved = 1 if route is None else None
        if streams:
            reserved = {"Ref": "ExecConcurrency" if function.endswith("exec") else "StreamConcurrency"}
        if properties.get("ReservedConcurrentExecutions") != reserved:
            faults.append(f"{function} has a concurrency of {properties.get('ReservedConcurrentExecutions')}")
        variables = set(properties["Environment"]["Variables"])
        wanted = set(known["variables"])
        if route is None or not route["authenticates"]:
            wanted.discard("THEAZO_CREDENTIAL_KEY")
        for variable in sorted(wanted ^ variables):
            faults.append(f"{function}: {variable} is only in the {'template' if variable in variables else 'functions'}")
        if ("VpcConfig" in properties) != (route is None or route["sandboxes"]):
            faults.append(f"{function} is in the wrong network")


def metrics(resources, known, faults):
    """Alarms and the dashboard look at metrics that there are."""
    counted = {
        transformation["MetricName"]
        for one in of_type(resources, "AWS::Logs::MetricFilter").values()
        for transformation in one["MetricTransformations"]
    }
    looked_at = set()

    def look(where, namespace, metric, dimensions):
        if namespace == {"Fn::Sub": "Theazo/${Deployment}"} or namespace == "Theazo/${Deployment}":
            looked_at.add(metric)
            # Functions write figures themselves; what they do not is counted of their lines, by no dimension.
            written = [dict([pair]) for figure in known["figures"] if figure["metric"] == metric for pair in figure["by"]]
            if dimensions not in written if dimensions else metric not in counted:
                faults.append(f"{where} looks at {metric}, which nothing counts so")
        elif tuple(sorted(dimensions)) not in DIMENSIONS.get((namespace, metric), set()):
            faults.append(f"{where} looks at {namespace} {metric} by {sorted(dimensions)}, of which there is none")

    tables = {"Fn::If": ["HasOtherTable", {"Ref": "DataTableName"}, {"Ref": "DataTable"}]}
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        stats = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m] or [alarm]
        for stat in stats:
            dimensions = {d["Name"]: d["Value"] for d in stat.get("Dimensions", [])}
            look(name, stat["Namespace"], stat["MetricName"], dimensions)
            function = dimensions.get("FunctionName", {"Ref": "HealthFunction"})["Ref"]
            if resources.get(function, {}).get("Type") != "AWS::Lambda::Function":
                faults.append(f"{name} looks at {function}")
            if dimensions.get("TableName", tables) != tables:
                faults.append(f"{name} looks at {dimensions['TableName']}")
    [dashboard] = of_type(resources, "AWS::CloudWatch::Dashboard").values()
    text, own = dashboard["DashboardBody"]["Fn::Sub"]
    if own != {"Data": tables}:
        faults.append(f"the dashboard's table is {own}")
    shown = {}
    for widget in json.loads(text)["widgets"]:
        row = []
        for line in widget["properties"]["metrics"]:
            line = [part for part in line if isinstance(part, str)]
            if line[:1] == ["..."]:
                line = row[: len(row) - len(line) + 1] + line[1:]
            line = [row[index] if part == "." else part for index, part in enumerate(line)]
            row = line
            look("the dashboard", line[0], line[1], dict(zip(line[2::2], line[3::2])))
            if line[2:3] == ["FunctionName"]:
                shown.setdefault((widget["properties"]["title"], line[1]), []).append(line[3])
    wanted = ["${Deployment}_" + route["name"] for route in known["routes"]]
    wanted += ["${Deployment}_" + function for function in known["scheduled"]]
    for title, metric in [("Functions: errors", "Errors"), ("Functions: throttles", "Throttles")]:
        if shown.get((title, metric)) != wanted:
            faults.append(f"the dashboard does not show every function's {metric}")
    for metric in sorted(counted - looked_at):
        faults.append(f"{metric} is counted, and nobody looks at it")

"""The gateway: its one stage, what it logs and answers by itself, and what leads to it or stands before it."""

import json

from frame import BUFFERED_S, STREAM_S, of_type

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
    "DEFAULT_5XX": ("internal_error", "500"),
    "INTEGRATION_TIMEOUT": ("timeout", "504"),
    "MISSING_AUTHENTICATION_TOKEN": ("not_found", "404"),
    "REQUEST_TOO_LARGE": ("invalid_request", "400"),
    "THROTTLED": ("rate_limited", "429"),
}
# The firewall has no ids for what it refuses.
NO_ID = "00000000-0000-0000-0000-000000000000"
ORIGIN = {"Fn::Sub": "'${CorsOrigin}'"}
API = {"Ref": "Api"}
# What a page of the parameter's origin may do: all that the API has, with the headers that it reads.
CORS = {
    "Allow-Origin": ORIGIN,
    "Allow-Methods": "'GET,POST,PUT,PATCH,DELETE,OPTIONS'",
    "Allow-Headers": "'authorization,content-type,idempotency-key,last-event-id'",
    "Max-Age": "'600'",
}


def check(resources, faults):
    gateway(resources, faults)
    domain(resources, faults)
    firewall(resources, faults)


def gateway(resources, faults):
    for name, deployment in of_type(resources, "AWS::ApiGateway::Deployment").items():
        if "StageName" in deployment:
            faults.append(f"{name} makes a second stage, {deployment['StageName']}")
        if deployment.get("RestApiId") != API:
            faults.append(f"{name} is of another API")
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
            "MetricsEnabled": False,
            "LoggingLevel": "OFF",
            "DataTraceEnabled": False,
        }
        if stage.get("MethodSettings") != [wanted]:
            faults.append("the stage's throttles or logs differ")
        if stage.keys() != {"AccessLogSetting", "DeploymentId", "MethodSettings", "RestApiId", "StageName"}:
            faults.append(f"the stage is made of {sorted(stage)}")
        if stage["AccessLogSetting"].get("DestinationArn") != {"Fn::GetAtt": ["ApiLog", "Arn"]}:
            faults.append("the access log goes elsewhere")
        if stage.get("TracingEnabled") or stage.get("CacheClusterEnabled"):
            faults.append("the stage traces or caches")
    [api] = of_type(resources, "AWS::ApiGateway::RestApi").values()
    # Regional: at the edge, a stream that is silent for 30 seconds is given up on.
    if api.keys() != {"Name", "Body", "Parameters", "EndpointConfiguration"}:
        faults.append(f"the API is made of {sorted(api)}")
    if api.get("EndpointConfiguration") != {"Types": ["REGIONAL"]}:
        faults.append(f"the API is at {api.get('EndpointConfiguration')}")
    body = api["Body"]
    if body.keys() != {"info", "paths", "openapi", "x-amazon-apigateway-gateway-responses"}:
        faults.append(f"the API's description is made of {sorted(body)}")
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
        later = answer["responseParameters"].get("gatewayresponse.header.Retry-After")
        if later != ("'1'" if name == "THROTTLED" else None):
            faults.append(f"the gateway's {name} says to ask again after {later} seconds")
        ids = [told.get("requestId"), error.get("requestId")]
        ids.append("$" + answer["responseParameters"].get("gatewayresponse.header.X-Request-Id", ""))
        if ids != ["$context.requestId"] * 3:
            faults.append(f"the gateway's {name} tells of the ids {ids}")
        if answer["responseParameters"].get("gatewayresponse.header.Access-Control-Allow-Origin") != ORIGIN:
            faults.append(f"pages cannot read the gateway's {name}")
    for path, methods in body["paths"].items():
        asked = methods.get("options", {}).get("x-amazon-apigateway-integration", {})
        told = asked.get("responses", {}).get("default", {}).get("responseParameters", {})
        if told != {"method.response.header.Access-Control-" + name: value for name, value in CORS.items()}:
            faults.append(f"browsers are told otherwise, or nothing, of {path}")
        for method, spec in methods.items():
            integration = spec["x-amazon-apigateway-integration"]
            if method == "options":
                continue
            streams = integration.get("responseTransferMode") == "STREAM"
            if integration.get("timeoutInMillis") != 1000 * (STREAM_S if streams else BUFFERED_S):
                faults.append(f"{method} {path} is given up on after {integration.get('timeoutInMillis')} ms")


def domain(resources, faults):
    wanted = {
        "Domain": {
            "DomainName": {"Ref": "DomainName"},
            "RegionalCertificateArn": {"Ref": "CertificateArn"},
            "SecurityPolicy": "TLS_1_2",
            "EndpointConfiguration": {"Types": ["REGIONAL"]},
        },
        "DomainMapping": {"DomainName": {"Ref": "Domain"}, "RestApiId": {"Ref": "Api"}, "Stage": "live"},
    }
    for name, properties in wanted.items():
        found = resources.get(name, {})
        if found.get("Properties") != properties or found.get("Condition") != "HasDomain":
            faults.append(f"{name} does not lead a domain of one's own to the API")


def firewall(resources, faults):
    """Where it is asked for, one address is told to wait in the API's own words, and no request is kept as a sample."""
    seen = {"CloudWatchMetricsEnabled": True, "SampledRequestsEnabled": False}
    found = resources.get("Firewall", {})
    wall = found.get("Properties", {})
    [rule], [answer] = wall.get("Rules", [{}]), wall.get("CustomResponseBodies", {"": {}}).values()
    block = {"ResponseCode": 429, "CustomResponseBodyKey": "too-many"}
    block["ResponseHeaders"] = [{"Name": "Retry-After", "Value": "60"}, {"Name": "x-request-id", "Value": NO_ID}]
    wanted = {
        "Name": "per-address",
        "Priority": 0,
        "Action": {"Block": {"CustomResponse": block}},
        "VisibilityConfig": {**seen, "MetricName": {"Fn::Sub": "${Deployment}-per-address"}},
        "Statement": {"RateBasedStatement": {"AggregateKeyType": "IP", "Limit": {"Ref": "RequestsPerAddress"}}},
    }
    error = {"code": "rate_limited", "message": "Too many requests.", "details": {"retryAfter": 60}, "requestId": NO_ID}
    for what, holds in [
        ("is there only where it is asked for", found.get("Condition") == "HasFirewall"),
        ("is one of APIs", wall.get("Scope") == "REGIONAL"),
        ("lets everybody else through", wall.get("DefaultAction") == {"Allow": {}}),
        ("has one rule, and blocks by address", rule == wanted),
        ("keeps no samples", wall.get("VisibilityConfig") == {**seen, "MetricName": {"Ref": "Deployment"}}),
        ("answers in JSON", answer.get("ContentType") == "APPLICATION_JSON"),
        ("answers with our error", json.loads(answer.get("Content", "0")) == {"error": error, "requestId": NO_ID}),
        ("has an answer of the name", list(wall.get("CustomResponseBodies", {})) == ["too-many"]),
    ]:
        if not holds:
            faults.append(f"it does not hold of the firewall that it {what}")
    stage = "arn:${AWS::Partition}:apigateway:${AWS::Region}::/restapis/${Api}/stages/live"
    attached = {"ResourceArn": {"Fn::Sub": stage}, "WebACLArn": {"Fn::GetAtt": ["Firewall", "Arn"]}}
    found = resources.get("FirewallOnApi", {})
    if (found.get("Properties"), found.get("Condition")) != (attached, "HasFirewall"):
        faults.append("the firewall does not stand before the API")
    # Both need the stage, whose name SAM makes up, so nothing refers to it.
    for name in ("DomainMapping", "FirewallOnApi"):
        if resources.get(name, {}).get("DependsOn") != "ApiliveStage":
            faults.append(f"{name} may be made before the stage")

"""Reads the deployment template as CloudFormation will: transforms it with SAM's own translator, offline, and holds the
outcome against the route table. Prints one line of JSON with what it counted and the faults it found. It exits with 1 only if it
could not look.

usage: check_template.py TEMPLATE ROUTES   where ROUTES is JSON: the route table, the scheduled functions, what each function
was recorded to call, what it writes and reads beside that, and the operations guide.
"""

import json
import os
import sys

os.environ["AWS_DEFAULT_REGION"] = "us-east-1"

from samtranslator.translator.transform import transform  # noqa: E402
from samtranslator.yaml_helper import yaml_parse  # noqa: E402

import alarms  # noqa: E402
import frame  # noqa: E402
import gateway  # noqa: E402
import key_and_operator  # noqa: E402
import roles  # noqa: E402
import settings  # noqa: E402
from roles import resource_name  # noqa: E402

PSEUDO = {"AWS::AccountId", "AWS::NoValue", "AWS::Partition", "AWS::Region", "AWS::StackName", "AWS::URLSuffix"}
# CloudFormation's limit for a template that lies in a bucket, bytes.
MAX_TEMPLATE = 1_000_000

# Properties that name something in the account. Each has the deployment's name in it, so that two deployments meet nowhere.
NAMES = {
    "AWS::ApiGateway::RestApi": "Name",
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::DynamoDB::Table": "TableName",
    "AWS::IAM::Role": "RoleName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::WAFv2::WebACL": "Name",
}
# Types of which a resource has no name of its own, or one that CloudFormation makes.
NAMELESS = {
    "AWS::ApiGateway::BasePathMapping",
    "AWS::ApiGateway::Deployment",
    "AWS::ApiGateway::DomainName",
    "AWS::ApiGateway::Stage",
    "AWS::Events::Rule",
    "AWS::KMS::Key",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::Permission",
    "AWS::Logs::MetricFilter",
    "AWS::SNS::Subscription",
    "AWS::WAFv2::WebACLAssociation",
}


class ManagedPolicies(dict):
    def load(self):
        return self


def references(node):
    """Every name that a Ref, GetAtt or Sub names."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "Ref" and isinstance(value, str):
                yield value
            elif key == "Fn::GetAtt":
                yield value.split(".")[0] if isinstance(value, str) else value[0]
            elif key == "Fn::Sub":
                yield from sub_names(value)
            elif key == "Condition" and isinstance(value, str):
                yield "condition:" + value
            elif key == "DependsOn":
                yield from [value] if isinstance(value, str) else value
            if key == "Fn::If" and isinstance(value, list):
                yield "condition:" + value[0]
            yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def sub_names(value):
    text, own = (value, {}) if isinstance(value, str) else (value[0], value[1])
    for piece in text.split("${")[1:]:
        name = piece.split("}")[0]
        if not name.startswith("!") and name not in own:
            yield name.split(".")[0]


def main(template_path, routes_path):
    faults = []
    with open(template_path, encoding="utf-8") as file:
        template = yaml_parse(file.read())
    with open(routes_path, encoding="utf-8") as file:
        known = json.load(file)
    settings.check(template, known, faults)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = {"Bucket": "b", "Key": "k"}
    parameters = {name: spec.get("Default", "x-1") for name, spec in template["Parameters"].items()}
    out = transform(template, {k: v for k, v in parameters.items() if not isinstance(v, list)}, ManagedPolicies())

    resources = out["Resources"]
    names = set(resources) | set(out["Parameters"]) | PSEUDO
    names |= {"condition:" + name for name in out["Conditions"]}
    for where, node in [("Resources", resources), ("Outputs", out["Outputs"]), ("Conditions", out["Conditions"])]:
        for name in references(node):
            if name not in names and name.split(".")[0] not in names and "condition:" + name not in names:
                faults.append(f"{where} names {name}, which does not exist")
    if len(resources) > 500:
        faults.append(f"{len(resources)} resources; CloudFormation takes 500")
    if len(json.dumps(out)) > MAX_TEMPLATE:
        faults.append(f"{len(json.dumps(out))} bytes; CloudFormation takes {MAX_TEMPLATE}")

    # The gateway's routes are the route table's, and each leads to the function of its name.
    api = next(r for r in resources.values() if r["Type"] == "AWS::ApiGateway::RestApi")
    found = {}
    for path, methods in api["Properties"]["Body"]["paths"].items():
        for method, spec in methods.items():
            if method == "options":
                continue
            integration = spec["x-amazon-apigateway-integration"]
            uri = json.dumps(integration["uri"])
            found[(method, path)] = (uri, integration.get("responseTransferMode", "BUFFERED"))
    wanted = {("x-amazon-apigateway-any-method", "/"): "health", ("x-amazon-apigateway-any-method", "/{proxy+}"): "health"}
    streams = set()
    for route in known["routes"]:
        wanted[(route["method"].lower(), route["path"])] = route["name"]
        if route["streams"]:
            streams.add((route["method"].lower(), route["path"]))
    for place in sorted(set(found) ^ set(wanted)):
        faults.append(f"{place} is only in the {'gateway' if place in found else 'route table'}")
    for place in set(found) & set(wanted):
        uri, mode = found[place]
        if f"{resource_name(wanted[place])}Function.Arn" not in uri:
            faults.append(f"{place} does not lead to {wanted[place]}")
        if ("response-streaming-invocations" in uri) != (place in streams) or (mode == "STREAM") != (place in streams):
            faults.append(f"{place}: streams in the table is {place in streams}, in the gateway {mode}")

    grants = roles.check(resources, known, faults)
    key_and_operator.check(resources, grants, faults)
    frame.check(resources, known, faults)
    gateway.check(resources, faults)
    alarms.check(resources, known, faults)

    # A second deployment of another name shares nothing: what is named is named after the deployment, what counts is
    # counted under its name, and nothing refers to what is not in the stack.
    for name, resource in resources.items():
        kind, properties = resource["Type"], resource["Properties"]
        if kind in NAMES:
            if "Deployment" not in set(references(properties.get(NAMES[kind]))):
                faults.append(f"{name} is not named after the deployment")
        elif kind not in NAMELESS:
            faults.append(f"{name} is a {kind}, of which it is not known what names it")
        if kind == "AWS::Logs::MetricFilter":
            for counted in properties["MetricTransformations"]:
                if "Deployment" not in set(references(counted["MetricNamespace"])):
                    faults.append(f"{name} counts for every deployment")
        text = json.dumps(properties)
        if "Fn::ImportValue" in text or "{{resolve:" in text.replace("{{resolve:secretsmanager:${CredentialKey}", ""):
            faults.append(f"{name} refers to what is not in the stack")

    for name in ("DataTable", "LedgerTable", "RootWrappingKey", "CredentialKey"):
        if (resources[name].get("DeletionPolicy"), resources[name].get("UpdateReplacePolicy")) != ("Retain", "Retain"):
            faults.append(f"{name} would be deleted with its stack")

    functions = len(known["routes"]) + len(known["scheduled"])
    print(json.dumps({"resources": len(resources), "functions": functions, "faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""What stands in the template before SAM reads it: what is built and how, parameters, conditions and outputs."""

import re

from frame import OTHER_LEDGER, OTHER_TABLE
from roles import resource_name


def unless(parameter, empty=""):
    return {"Fn::Not": [{"Fn::Equals": [parameter, empty]}]}


def joined(parameter):
    return {"Fn::Join": ["", {"Ref": parameter}]}


CONDITIONS = {
    "HasDomain": unless({"Ref": "DomainName"}),
    "HasFirewall": unless({"Ref": "RequestsPerAddress"}, 0),
    "HasAlarmEmail": unless({"Ref": "AlarmEmail"}),
    "HasVpc": unless(joined("ProviderSubnets")),
    "HasOtherTable": unless({"Ref": "DataTableName"}),
    "HasOtherLedger": unless({"Ref": "LedgerTableName"}),
    "HasOperators": unless(joined("OperatorPrincipals")),
    "HasE2bApi": unless({"Ref": "E2bApiUrl"}),
    "HasE2bSandbox": unless({"Ref": "E2bSandboxUrl"}),
    "HasDockerRanges": unless({"Ref": "DockerPrivateRanges"}),
    "HasPrices": unless({"Ref": "PricesJson"}),
    "HasAgentEndpoint": unless({"Ref": "AgentEndpoint"}),
    "HasCors": unless({"Ref": "CorsOrigin"}, "none"),
}
GATEWAY = "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}/live"
# What the operator's tool must know of what functions are told.
OPERATOR = {
    "THEAZO_DEPLOYMENT": "Deployment",
    "THEAZO_LEDGER": "Ledger",
    "THEAZO_KMS_KEY_ARN": "RootWrappingKey.Arn",
    "THEAZO_KEY_CACHE_SECONDS": "KeyCacheSeconds",
    "THEAZO_AUDIT_RETENTION_DAYS": "AuditDays",
    "THEAZO_LOG_RETENTION_DAYS": "LogEntryDays",
    "THEAZO_DEAD_HOST_AFTER_SECONDS": "DeadHostSeconds",
    "THEAZO_DOCKER_PRIVATE_RANGES": "DockerPrivateRanges",
    "THEAZO_E2B_API_URL": "E2bApiUrl",
    "THEAZO_E2B_SANDBOX_URL": "E2bSandboxUrl",
    "THEAZO_PRICES": "PricesJson",
}
OUTPUTS = {
    "ApiUrl": {"Fn::If": ["HasDomain", {"Fn::Sub": "https://${DomainName}"}, {"Fn::Sub": GATEWAY}]},
    "DomainTarget": {"Fn::GetAtt": ["Domain", "RegionalDomainName"]},
    "DataTableName": OTHER_TABLE,
    "LedgerTableName": OTHER_LEDGER,
    "KmsKeyArn": {"Fn::GetAtt": ["RootWrappingKey", "Arn"]},
    "CredentialKeySecret": {"Ref": "CredentialKey"},
    "OperatorRoleArn": {"Fn::GetAtt": ["OperatorRole", "Arn"]},
    "OperatorEnvironment": {
        "Fn::Sub": [
            "\n".join(f"export {name}='${{{value}}}'" for name, value in OPERATOR.items()),
            {"Ledger": OTHER_LEDGER},
        ]
    },
}
# What is deployed where nothing is said, and the bounds of what may be said. A day, a second or a request more than functions
# take would make functions that do not start. Where anything may be said, there are no bounds; texts have patterns.
NUMBERS = {
    "LogRetentionDays": (30, None, None),
    "LogEntryDays": (30, 1, 3653),
    "AuditDays": (400, 1, 3653),
    "DeadHostSeconds": (900, 60, 86400),
    "StreamCheckSeconds": (10, 0, 60),
    "BackupDays": (35, 1, 35),
    "KeyCacheSeconds": (600, 1, 3600),
    "KeyRequestsPerSecond": (1000, 1, None),
    "TokenRequestsPerSecond": (100, 1, None),
    "StageRequestsPerSecond": (2000, 1, None),
    "StageBurst": (4000, 1, None),
    "RequestsPerAddress": (0, 0, None),
    "ExecConcurrency": (100, 1, None),
    "StreamConcurrency": (50, 1, None),
}
# Days for which CloudWatch can keep a log, up to what the trail is kept for.
RETENTIONS = [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400]
# Texts that may be given, and some that may not: tokens and values go to these addresses, so only HTTPS will do.
ADDRESS = (["", "https://api.example.com", "https://api.example.com/a/b"], ["http://api.example.com", "https://", "https://a b"])
TABLE = (["", "theazo-data_2"], ["a/b", "ab", "theazo data"])
TEXTS = {
    "CorsOrigin": (["none", "*", "https://example.com", "http://127.0.0.1:3000"], ["", "null", "https://a/", "https://a'b"]),
    "DomainName": ([""], []),
    "CertificateArn": ([""], []),
    "AgentEndpoint": ADDRESS,
    "AlarmEmail": ([""], []),
    "ProviderSubnets": ([""], []),
    "ProviderSecurityGroups": ([""], []),
    "DataTableName": TABLE,
    "LedgerTableName": TABLE,
    "OperatorPrincipals": ([""], []),
    "E2bApiUrl": ADDRESS,
    "E2bSandboxUrl": ADDRESS,
    "DockerPrivateRanges": (["", "10.0.0.0/8", "10.0.0.0/8,fd00::/8"], ["10.0.0.1", "example.com/8", "10.0.0.0/8,"]),
    "PricesJson": ([""], []),
}
# Names of deployments, and what must not be one: an underscore parts it from what follows it in the names of functions and
# roles, and roles' names have 64 letters.
GOOD_NAMES = ["theazo", "theazo-dev", "t2", "a" * 21]
BAD_NAMES = ["", "t", "a" * 22, "Theazo", "the_azo", "2theazo", "-theazo", "the.azo", "the*", "the azo", "theazo\n"]


def check(template, known, faults):
    built(template, known, faults)
    parameters = template["Parameters"]
    if parameters["Architecture"].get("Default") != "arm64" or set(parameters["Architecture"].get("AllowedValues", [])) != {
        "arm64",
        "x86_64",
    }:
        faults.append("functions are not for arm64 unless x86_64 is asked for")
    allowed = re.compile(parameters["Deployment"].get("AllowedPattern", ".*"))
    for name in GOOD_NAMES:
        if not allowed.fullmatch(name):
            faults.append(f"a deployment may not be called {name!r}")
    for name in BAD_NAMES:
        if allowed.fullmatch(name):
            faults.append(f"a deployment may be called {name!r}")
    if "Default" in parameters["Deployment"]:
        faults.append("deployments are all called the same unless told otherwise")
    given(parameters, faults)
    conditions = template["Conditions"]
    for name in sorted(conditions.keys() | CONDITIONS.keys()):
        if conditions.get(name) != CONDITIONS.get(name):
            faults.append(f"the condition {name} is {conditions.get(name)}")
    outputs(template["Outputs"], known["guide"], faults)


def given(parameters, faults):
    known = NUMBERS.keys() | TEXTS.keys() | {"Deployment", "Architecture"}
    for name in sorted(parameters.keys() ^ known):
        faults.append(f"the parameter {name} is {'new' if name in parameters else 'gone'}")
    for name, bounds in NUMBERS.items():
        parameter = parameters.get(name, {})
        has = tuple(parameter.get(part) for part in ("Default", "MinValue", "MaxValue"))
        if has != bounds or parameter["Type"] != "Number":
            faults.append(f"the parameter {name} is {has}")
    if parameters["LogRetentionDays"].get("AllowedValues") != RETENTIONS:
        faults.append("logs may be kept for other times than CloudWatch can")
    for name, (good, bad) in TEXTS.items():
        parameter = parameters.get(name, {})
        pattern = parameter.get("AllowedPattern")
        allowed = re.compile(".*" if pattern is None else pattern)
        if parameter.get("Default") != good[0] or (pattern is None) != (not bad):
            faults.append(f"the parameter {name} is {parameter.get('Default')!r} by {pattern}")
        for text in good + bad:
            if (allowed.fullmatch(text) is not None) != (text in good):
                faults.append(f"the parameter {name} {'refuses' if text in good else 'takes'} {text!r}")


def built(template, known, faults):
    """Each function is built of the binary of its name, for the parameter's architecture."""
    settings = template["Globals"]["Function"]
    for part, value in [("Runtime", "provided.al2023"), ("Handler", "bootstrap"), ("Architectures", [{"Ref": "Architecture"}])]:
        if settings.get(part) != value:
            faults.append(f"functions' {part} is {settings.get(part)}")
    if settings.keys() != {"Runtime", "Handler", "CodeUri", "Architectures", "MemorySize", "Timeout", "Environment"}:
        faults.append(f"functions are made of {sorted(settings)}")
    if settings.get("CodeUri") != "..":
        faults.append(f"functions are built in {settings.get('CodeUri')}")
    if template["Globals"].keys() != {"Function"}:
        faults.append(f"settings of {sorted(template['Globals'])}")
    for function in [route["name"] for route in known["routes"]] + known["scheduled"]:
        resource = template["Resources"].get(resource_name(function) + "Function", {})
        made = resource.get("Metadata", {})
        if "CodeUri" in resource.get("Properties", {}):
            faults.append(f"{function} is built elsewhere")
        if made != {"BuildMethod": "rust-cargolambda", "BuildProperties": {"Binary": function}}:
            faults.append(f"{function} is built as {made}")


def outputs(found, guide, faults):
    """The outputs are those that the guide names: in its list, and the domain's, which is there only with a domain."""
    text = " ".join(guide.split())
    listed = re.search(r"prints the outputs: ((?:`\w+`(?:, )?)+)", text)
    named = set(re.findall(r"`(\w+)`", listed.group(1))) if listed else set()
    named |= set(re.findall(r"the output `(\w+)`", text))
    for name in sorted(named ^ found.keys()):
        faults.append(f"the output {name} is only in the {'template' if name in found else 'guide'}")
    for name in sorted(found.keys() | OUTPUTS.keys()):
        if found.get(name, {}).get("Value") != OUTPUTS.get(name):
            faults.append(f"the output {name} is {found.get(name, {}).get('Value')}")
    conditional = {name: output["Condition"] for name, output in found.items() if "Condition" in output}
    if conditional != {"DomainTarget": "HasDomain"}:
        faults.append("other outputs than the domain's are there only sometimes")

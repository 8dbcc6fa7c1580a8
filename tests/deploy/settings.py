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
OUTPUTS = {
    "ApiUrl": {"Fn::If": ["HasDomain", {"Fn::Sub": "https://${DomainName}"}, {"Fn::Sub": GATEWAY}]},
    "DomainTarget": {"Fn::GetAtt": ["Domain", "RegionalDomainName"]},
    "DataTableName": OTHER_TABLE,
    "LedgerTableName": OTHER_LEDGER,
    "KmsKeyArn": {"Fn::GetAtt": ["RootWrappingKey", "Arn"]},
    "CredentialKeySecret": {"Ref": "CredentialKey"},
    "OperatorRoleArn": {"Fn::GetAtt": ["OperatorRole", "Arn"]},
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
    conditions = template["Conditions"]
    for name in sorted(conditions.keys() | CONDITIONS.keys()):
        if conditions.get(name) != CONDITIONS.get(name):
            faults.append(f"the condition {name} is {conditions.get(name)}")
    outputs(template["Outputs"], known["guide"], faults)


def built(template, known, faults):
    """Each function is built of the binary of its name, for the parameter's architecture."""
    settings = template["Globals"]["Function"]
    for part, value in [("Runtime", "provided.al2023"), ("Handler", "bootstrap"), ("Architectures", [{"Ref": "Architecture"}])]:
        if settings.get(part) != value:
            faults.append(f"functions' {part} is {settings.get(part)}")
    if template["Globals"].keys() != {"Function"}:
        faults.append(f"settings of {sorted(template['Globals'])}")
    for function in [route["name"] for route in known["routes"]] + known["scheduled"]:
        made = template["Resources"].get(resource_name(function) + "Function", {}).get("Metadata", {})
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
    if [name for name, output in found.items() if "Condition" in output] != ["DomainTarget"]:
        faults.append("other outputs than the domain's are there only sometimes")

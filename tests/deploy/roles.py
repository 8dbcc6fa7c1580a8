"""What roles and the key's policy grant, held against what functions were recorded to call."""

# What Lambda does with the network interfaces of a function in a VPC, with the function's role. EC2 describes by no resource;
# of the rest, nobody knows the interfaces before there are any.
DESCRIBE = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
INTERFACES = [
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:UnassignPrivateIpAddresses",
]


def of_account(kind):
    return {"Fn::Sub": "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:" + kind + "/*"}


OF_ACCOUNT = [of_account("network-interface"), of_account("security-group"), of_account("subnet")]
# IAM takes no more of a role's own policies, characters without white space; intrinsic functions are about as long as what
# they become.
MAX_POLICY = 10240
NOTHING = {"Ref": "AWS::NoValue"}
# Functions are run by Lambda and by nobody else.
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
CONTEXT = {
    "kms:EncryptionContext:theazo:purpose": "root-key",
    "kms:EncryptionContext:theazo:deployment": {"Ref": "Deployment"},
}
# Tables that were put back, which have these names so that the operator can bring them up to date.
RESTORED = [{"Fn::Sub": "${DataTable.Arn}_*"}, {"Fn::Sub": "${LedgerTable.Arn}_*"}]
TABLES = {
    "data": ("HasOtherTable", "DataTableName", "DataTable"),
    "ledger": ("HasOtherLedger", "LedgerTableName", "LedgerTable"),
}


def resource_name(function):
    return "".join(word[:1].upper() + word[1:] for word in function.split("-"))


def as_list(value):
    return value if isinstance(value, list) else [value]


def statements(role):
    for policy in role["Properties"].get("Policies", []):
        policy = policy["Fn::If"][1] if "Fn::If" in policy else policy
        yield from policy["PolicyDocument"]["Statement"]


def network(function):
    """The only conditional policy there is: in a VPC, whoever calls providers has network interfaces, which are not its own
    code's to touch."""
    own = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${Deployment}_" + function
    not_by_code = {"ArnEquals": {"lambda:SourceFunctionArn": {"Fn::Sub": own}}}
    every = sorted(DESCRIBE + INTERFACES)
    statements = [
        {"Sid": "NetworkInterfaces", "Effect": "Allow", "Action": INTERFACES, "Resource": of_account("network-interface")},
        {"Sid": "InTheirNetwork", "Effect": "Allow", "Action": "ec2:CreateNetworkInterface", "Resource": OF_ACCOUNT[1:]},
        {"Sid": "Describe", "Effect": "Allow", "Action": DESCRIBE, "Resource": "*"},
        {"Sid": "NotByCode", "Effect": "Deny", "Action": every, "Resource": "*", "Condition": not_by_code},
    ]
    policy = {"PolicyName": "network", "PolicyDocument": {"Version": "2012-10-17", "Statement": statements}}
    return {"Fn::If": ["HasVpc", policy, NOTHING]}


def logs(name):
    """A function writes into its own log group. CloudFormation makes the group, so nobody needs to."""
    return {
        "Sid": "Log",
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": {"Fn::GetAtt": [name + "Log", "Arn"]},
    }


def of_services(statement):
    """Whether a statement is about what is recorded; what is not has one form only."""
    return all(action.split(":")[0] in ("dynamodb", "kms") for action in as_list(statement["Action"]))


def shape(function, name, role, sandboxes, faults):
    """All of a role but what `granted` reads: who may take it on, what it is made of, and its rights on logs and network."""
    properties = role["Properties"]
    if properties.keys() != {"RoleName", "AssumeRolePolicyDocument", "Policies"} or "Condition" in role:
        faults.append(f"{function}'s role is made of {sorted(properties)}")
    if properties["AssumeRolePolicyDocument"] != TRUST:
        faults.append(f"{function}'s role can be taken on by others than Lambda")
    own, *others = properties["Policies"]
    if others != ([network(function)] if sandboxes else []):
        does = "calls" if sandboxes else "does not call"
        faults.append(f"{function}'s network permissions are not those of a function that {does} providers")
    document = own.get("PolicyDocument", {})
    if own.keys() != {"PolicyName", "PolicyDocument"} or (own["PolicyName"], document["Version"]) != (function, "2012-10-17"):
        faults.append(f"{function}'s policy is not one of its name")
    for statement in document["Statement"] or []:
        if statement["Effect"] != "Allow":
            faults.append(f"{function}: {statement['Sid']} does not allow")
        if statement.keys() - {"Condition"} != {"Sid", "Effect", "Action", "Resource"}:
            faults.append(f"{function}: {statement.get('Sid')} is made of {sorted(statement)}")
    # The credential key is no exception: it is in the environment, resolved by CloudFormation, and no function reads a secret.
    rest = [statement for statement in document["Statement"] or [] if not of_services(statement)]
    if rest != [logs(name)]:
        actions = sorted(action for statement in rest for action in as_list(statement["Action"]))
        faults.append(f"{function} is granted other than its log beside what was recorded: {actions}")


def table_arn(service):
    has_other, parameter, own = TABLES[service]
    arn = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${" + parameter + "}"
    return {"Fn::If": [has_other, {"Fn::Sub": arn}, {"Fn::GetAtt": [own, "Arn"]}]}


def granted(name, role, faults):
    """What a role grants, in the form of the recorded permissions."""
    out = {}
    for statement in statements(role):
        resource, condition = statement["Resource"], statement.get("Condition", {})
        for action in as_list(statement["Action"]):
            prefix, action = action.split(":", 1)
            if prefix == "dynamodb":
                services = [service for service in TABLES if resource == table_arn(service)]
                if not services:
                    faults.append(f"{name}: {action} of {resource}")
                    continue
                access = out.setdefault(services[0], {}).setdefault(action, {})
                wanted = dict(condition.get("ForAllValues:StringLike", {}))
                keys = wanted.pop("dynamodb:LeadingKeys", [])
                attributes = wanted.pop("dynamodb:Attributes", None)
                rest = {k: v for k, v in condition.items() if k not in ("Null", "ForAllValues:StringLike")}
                if wanted or rest:
                    faults.append(f"{name}: {action} has other conditions: {wanted or rest}")
                # Of a request without keys, `ForAllValues` says yes.
                if bool(keys) != (action != "Scan") or (keys and condition.get("Null") != {"dynamodb:LeadingKeys": "false"}):
                    faults.append(f"{name}: {action} is not bound to keys")
                if attributes is None:
                    access.setdefault("keys", []).extend(keys)
                else:
                    for key in keys:
                        access.setdefault("attributes", {}).setdefault(key, []).extend(attributes)
            elif prefix == "kms":
                out.setdefault("kms", {})[action] = {}
                if resource != {"Fn::GetAtt": ["RootWrappingKey", "Arn"]}:
                    faults.append(f"{name}: {action} of {resource}")
                if condition != {"StringEquals": CONTEXT}:
                    faults.append(f"{name}: {action} is not bound to the encryption context")
    for actions in out.values():
        for access in actions.values():
            if not access.get("keys", True):
                del access["keys"]
            else:
                access.update({k: sorted(v) for k, v in access.items() if k == "keys"})
    return out


def check(resources, known, faults):
    """Each function has a role of its own, which grants what it was recorded to call and nothing else."""
    functions = [route["name"] for route in known["routes"]] + known["scheduled"]
    there = {n for n, r in resources.items() if r["Type"] == "AWS::Lambda::Function"}
    if there != {resource_name(f) + "Function" for f in functions}:
        faults.append(f"functions differ: {sorted(there ^ {resource_name(f) + 'Function' for f in functions})}")
    roles = {n for n, r in resources.items() if r["Type"] == "AWS::IAM::Role"} - {"OperatorRole"}
    if roles != {resource_name(f) + "Role" for f in functions}:
        faults.append(f"roles differ: {sorted(roles ^ {resource_name(f) + 'Role' for f in functions})}")
    sandboxes = {route["name"] for route in known["routes"] if route["sandboxes"]} | set(known["scheduledWithSandboxes"])
    grants = {}
    for function in functions:
        name = resource_name(function)
        properties = resources[name + "Function"]["Properties"]
        if properties["Role"] != {"Fn::GetAtt": [name + "Role", "Arn"]}:
            faults.append(f"{function} has another function's role")
        role = resources[name + "Role"]
        if role["Properties"]["RoleName"] != {"Fn::Sub": "${Deployment}_" + function}:
            faults.append(f"{function}'s role is called {role['Properties']['RoleName']}")
        if role["Properties"].get("ManagedPolicyArns"):
            faults.append(f"{function}'s role has managed policies")
        if size(role) > MAX_POLICY:
            faults.append(f"{function}'s policies have {size(role)} characters; IAM takes {MAX_POLICY}")
        shape(function, name, role, function in sandboxes, faults)
        grants[function] = granted(function, role, faults)
        recorded = known["permissions"].get(function)
        if grants[function] != recorded:
            differing = [s for s in TABLES.keys() | {"kms"} if grants[function].get(s) != (recorded or {}).get(s)]
            faults.append(f"{function} is granted other than recorded: {sorted(differing)}")
    for name in sorted(roles | {"OperatorRole"}):
        for statement in statements(resources[name]):
            for action in as_list(statement["Action"]):
                if "*" in action or "?" in action:
                    faults.append(f"{name} is granted {action}")
                wide = [r for r in as_list(statement["Resource"]) if has_wildcard(r)]
                if wide and not may_be_wide(name, statement["Effect"], action, wide):
                    faults.append(f"{name} is granted {action} on everything like {wide}")
    return grants


def may_be_wide(role, effect, action, wide):
    """Whether AWS has no narrower form of it, or it takes something away."""
    if role == "OperatorRole":
        return all(resource in RESTORED for resource in wide)
    return effect == "Deny" or action in DESCRIBE or (action in INTERFACES and all(resource in OF_ACCOUNT for resource in wide))


def has_wildcard(resource):
    """Whether an ARN, or any of those that it may be, stands for more than one thing."""
    if isinstance(resource, dict):
        return any(has_wildcard(part) for value in resource.values() for part in as_list(value))
    return isinstance(resource, str) and ("*" in resource or "?" in resource)


def size(role):
    # Of an intrinsic function, what stands in it; a table's ARN has about a hundred characters whatever it is called.
    def characters(node):
        if isinstance(node, dict):
            if "Fn::If" in node or "Fn::GetAtt" in node or "Fn::Sub" in node:
                return 110
            return sum(len(k) + 4 + characters(v) for k, v in node.items()) + 2
        if isinstance(node, list):
            return sum(characters(item) + 1 for item in node) + 2
        return len(str(node)) + 2

    return sum(characters(statement) for statement in statements(role))

"""What roles and the key's policy grant, held against what functions were recorded to call."""

# Actions for which AWS has no narrower resource than all: those of a function's network interfaces.
WIDE = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
}
# IAM takes no more of a role's own policies, characters without white space; intrinsic functions are about as long as what
# they become.
MAX_POLICY = 10240
ACCOUNT = {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}
CONTEXT = {
    "kms:EncryptionContext:theazo:purpose": "root-key",
    "kms:EncryptionContext:theazo:deployment": {"Ref": "Deployment"},
}
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
        grants[function] = granted(function, role, faults)
        recorded = known["permissions"].get(function)
        if grants[function] != recorded:
            differing = [s for s in TABLES.keys() | {"kms"} if grants[function].get(s) != (recorded or {}).get(s)]
            faults.append(f"{function} is granted other than recorded: {sorted(differing)}")
    for name in sorted(roles | {"OperatorRole"}):
        for statement in statements(resources[name]):
            for action in as_list(statement["Action"]):
                if "*" in action:
                    faults.append(f"{name} is granted {action}")
                if statement["Resource"] == "*" and action not in WIDE:
                    faults.append(f"{name} is granted {action} on everything")
    for statement in statements(resources["OperatorRole"]):
        uses = [a for a in as_list(statement["Action"]) if a.startswith("kms:") and a != "kms:DescribeKey"]
        if uses and statement.get("Condition") != {"StringEquals": CONTEXT}:
            faults.append("the operator may use the key for something else")
    key_policy(resources["RootWrappingKey"]["Properties"]["KeyPolicy"], grants, faults)


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


def key_policy(policy, grants, faults):
    """The key's own policy: it leaves it to the account's policies who may use the key, and to those roles at most whose
    policies say so."""
    deployed = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${Deployment}_"
    for statement in policy["Statement"]:
        sid = statement["Sid"]
        if (statement["Effect"], statement["Principal"]) != ("Allow", ACCOUNT):
            faults.append(f"the key's {sid} is for {statement['Principal']}")
        actions = {action.split(":")[1] for action in as_list(statement["Action"])}
        using = {"Decrypt", "Encrypt", "ReEncryptFrom", "ReEncryptTo", "CreateGrant"}
        using |= {action for action in actions if action.startswith("Generate") or "*" in action}
        if sid == "Administer":
            if actions & using or "Condition" in statement:
                faults.append("who administers the key may use it")
            continue
        callers = [f for f, grant in grants.items() if actions & set(grant.get("kms", {}))] + ["operator"]
        wanted = {
            "StringEquals": CONTEXT,
            "ArnEquals": {"aws:PrincipalArn": [{"Fn::Sub": deployed + caller} for caller in callers]},
        }
        if statement.get("Condition") != wanted:
            faults.append(f"the key's {sid} is not for just the roles that use it: {callers}")

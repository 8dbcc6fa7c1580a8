"""The key that wraps root keys, and the operator's role: who may do what with them, and that nobody may do more."""

from roles import CONTEXT, RESTORED, as_list, statements

ACCOUNT = {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}
KEY = {"Fn::GetAtt": ["RootWrappingKey", "Arn"]}
# What root keys need of the key. Each is granted once: without it nothing can be opened, made, or rotated.
NEEDED = {"Decrypt", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"}
# What an account must be able to do with its key, so that nobody is locked out of it; it is all but using it.
ADMINISTERING = {
    "CancelKeyDeletion",
    "DescribeKey",
    "DisableKey",
    "DisableKeyRotation",
    "EnableKey",
    "EnableKeyRotation",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "ListGrants",
    "ListKeyRotations",
    "ListResourceTags",
    "PutKeyPolicy",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "TagResource",
    "UntagResource",
    "UpdateKeyDescription",
}
# As many digits as a key of 32 bytes has, and nothing that is none.
SECRET = {
    "Name": {"Fn::Sub": "${Deployment}-credential-key"},
    "Description": {"Fn::Sub": "Seals the credentials of Theazo deployment ${Deployment}"},
    "GenerateSecretString": {
        "PasswordLength": 64,
        "ExcludeUppercase": True,
        "ExcludePunctuation": True,
        "ExcludeCharacters": "ghijklmnopqrstuvwxyz",
        "IncludeSpace": False,
        "RequireEachIncludedType": False,
    },
}
# Who may take on the operator's role: those who signed in with a second factor, or those that the deployment names.
OPERATORS = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": ACCOUNT,
            "Action": "sts:AssumeRole",
            "Condition": {
                "Fn::If": [
                    "HasOperators",
                    {"ArnLike": {"aws:PrincipalArn": {"Ref": "OperatorPrincipals"}}},
                    {"Bool": {"aws:MultiFactorAuthPresent": "true"}},
                ]
            },
        }
    ],
}
# What the command line does: it reads and writes rows of every kind, looks at what `doctor` reports, makes and rotates root
# keys, and seals credentials.
OPERATING = {
    "Tables": {
        "Action": {
            "dynamodb:BatchWriteItem",
            "dynamodb:ConditionCheckItem",
            "dynamodb:DeleteItem",
            "dynamodb:DescribeContinuousBackups",
            "dynamodb:DescribeTable",
            "dynamodb:DescribeTimeToLive",
            "dynamodb:GetItem",
            "dynamodb:PutItem",
            "dynamodb:Query",
            "dynamodb:Scan",
            "dynamodb:UpdateItem",
        },
        "Resource": [
            {"Fn::GetAtt": ["DataTable", "Arn"]},
            RESTORED[0],
            {"Fn::GetAtt": ["LedgerTable", "Arn"]},
            RESTORED[1],
        ],
    },
    "RootKeys": {
        "Action": {"kms:" + action for action in NEEDED},
        "Resource": [KEY],
        "Condition": {"StringEquals": CONTEXT},
    },
    "SealCredentials": {"Action": {"secretsmanager:GetSecretValue"}, "Resource": [{"Ref": "CredentialKey"}]},
}


def check(resources, grants, faults):
    operator(resources["OperatorRole"], faults)
    key = resources["RootWrappingKey"]["Properties"]
    if key.keys() != {"Description", "EnableKeyRotation", "PendingWindowInDays", "KeyPolicy"}:
        faults.append(f"the key is made of {sorted(key)}")
    if key.get("EnableKeyRotation") is not True:
        faults.append("the key's own material is not rotated")
    if key.get("PendingWindowInDays") != 30:
        faults.append("a deleted key is not kept for as long as it can be")
    key_policy(key["KeyPolicy"], grants, faults)
    if resources["CredentialKey"]["Properties"] != SECRET:
        faults.append("the credential key is not 64 hexadecimal digits that CloudFormation makes")


def operator(role, faults):
    properties = role["Properties"]
    if properties.keys() != {"RoleName", "MaxSessionDuration", "AssumeRolePolicyDocument", "Policies"}:
        faults.append(f"the operator's role is made of {sorted(properties)}")
    if properties["RoleName"] != {"Fn::Sub": "${Deployment}_operator"} or properties["MaxSessionDuration"] != 3600:
        faults.append("the operator's role has another name or lasts for another time")
    if properties["AssumeRolePolicyDocument"] != OPERATORS:
        faults.append("the operator's role can be taken on without a second factor, or by others")
    if [policy.get("PolicyName") for policy in properties["Policies"]] != ["operate"]:
        faults.append("the operator's role has other policies")
    for policy in properties["Policies"]:
        if policy["PolicyDocument"].get("Version") != "2012-10-17":
            faults.append("the operator's policy is in another language")
    found = {}
    for statement in statements(role):
        sid = statement["Sid"]
        if statement["Effect"] != "Allow" or sid in found:
            faults.append(f"the operator's {sid} does not allow, or there are two")
        found[sid] = {key: value for key, value in statement.items() if key not in ("Sid", "Effect")}
        found[sid].update(Action=set(as_list(statement["Action"])), Resource=as_list(statement["Resource"]))
        uses = [a for a in as_list(statement["Action"]) if a.startswith("kms:")]
        if uses and statement.get("Condition") != {"StringEquals": CONTEXT}:
            faults.append("the operator may use the key for something else")
    for sid in sorted(found.keys() | OPERATING.keys()):
        has, wanted = found.get(sid, {}), OPERATING.get(sid, {})
        for part in sorted(part for part in has.keys() | wanted.keys() if has.get(part) != wanted.get(part)):
            faults.append(f"the operator's {sid} has another {part}")


def key_policy(policy, grants, faults):
    """The key's own policy: it leaves it to the account's policies who may use the key, and to those roles at most whose
    policies say so."""
    deployed = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${Deployment}_"
    allowing = {}
    if policy.get("Version") != "2012-10-17":
        faults.append("the key's policy is in another language")
    for statement in policy["Statement"]:
        sid = statement["Sid"]
        if (statement["Effect"], statement["Principal"]) != ("Allow", ACCOUNT):
            faults.append(f"the key's {sid} is for {statement['Principal']}")
        # In its own policy a key has no other name.
        parts = {"Sid", "Effect", "Principal", "Action", "Resource"}
        if statement["Resource"] != "*" or statement.keys() - {"Condition"} != parts:
            faults.append(f"the key's {sid} is made of {sorted(statement)}")
        actions = {action.split(":")[1] for action in as_list(statement["Action"])}
        for action in actions:
            allowing.setdefault(action, []).append(sid)
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
    for action in sorted(NEEDED | ADMINISTERING | allowing.keys()):
        sids = allowing.get(action, [])
        if len(sids) != (1 if action in NEEDED | ADMINISTERING else 0) or (action in ADMINISTERING) != (sids == ["Administer"]):
            faults.append(f"the key's policy allows {action} by {sids}")

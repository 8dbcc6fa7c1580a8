"""Tables, logs, and how functions are set up."""

from roles import resource_name

NOTHING = {"Ref": "AWS::NoValue"}
VPC = {"SubnetIds": {"Ref": "ProviderSubnets"}, "SecurityGroupIds": {"Ref": "ProviderSecurityGroups"}}
NETWORK = {"Fn::If": ["HasVpc", VPC, NOTHING]}
# What every function is made of; no layers, no file systems, and no traces, into which paths with tokens would go.
PARTS = {"Code", "Environment", "FunctionName", "Handler", "LoggingConfig", "MemorySize", "Role", "Runtime", "Tags", "Timeout"}
PARTS |= {"Architectures"}
OTHER_TABLE = {"Fn::If": ["HasOtherTable", {"Ref": "DataTableName"}, {"Ref": "DataTable"}]}
OTHER_LEDGER = {"Fn::If": ["HasOtherLedger", {"Ref": "LedgerTableName"}, {"Ref": "LedgerTable"}]}


def if_given(condition, parameter):
    return {"Fn::If": [condition, {"Ref": parameter}, NOTHING]}


# What each variable says.
ENVIRONMENT = {
    "THEAZO_DEPLOYMENT": {"Ref": "Deployment"},
    "THEAZO_TABLE": OTHER_TABLE,
    "THEAZO_LEDGER": OTHER_LEDGER,
    "THEAZO_KMS_KEY_ARN": {"Fn::GetAtt": ["RootWrappingKey", "Arn"]},
    "THEAZO_KEY_CACHE_SECONDS": {"Ref": "KeyCacheSeconds"},
    "THEAZO_KEY_REQUESTS_PER_SECOND": {"Ref": "KeyRequestsPerSecond"},
    "THEAZO_TOKEN_REQUESTS_PER_SECOND": {"Ref": "TokenRequestsPerSecond"},
    "THEAZO_AUDIT_RETENTION_DAYS": {"Ref": "AuditDays"},
    "THEAZO_LOG_RETENTION_DAYS": {"Ref": "LogEntryDays"},
    "THEAZO_DEAD_HOST_AFTER_SECONDS": {"Ref": "DeadHostSeconds"},
    "THEAZO_STREAM_CHECK_SECONDS": {"Ref": "StreamCheckSeconds"},
    "THEAZO_AGENT_ENDPOINT": {
        "Fn::If": ["HasDomain", {"Fn::Sub": "https://${DomainName}"}, if_given("HasAgentEndpoint", "AgentEndpoint")]
    },
    "THEAZO_PRICES": if_given("HasPrices", "PricesJson"),
    "THEAZO_CORS_ORIGIN": if_given("HasCors", "CorsOrigin"),
    "THEAZO_DOCKER_PRIVATE_RANGES": if_given("HasDockerRanges", "DockerPrivateRanges"),
    "THEAZO_E2B_API_URL": if_given("HasE2bApi", "E2bApiUrl"),
    "THEAZO_E2B_SANDBOX_URL": if_given("HasE2bSandbox", "E2bSandboxUrl"),
    "THEAZO_CREDENTIAL_KEY": {"Fn::Sub": "{{resolve:secretsmanager:${CredentialKey}:SecretString}}"},
}
BUFFERED_S, STREAM_S, SCHEDULED_S = 29, 900, 120


def of_type(resources, kind):
    return {name: r["Properties"] for name, r in resources.items() if r["Type"] == kind}


def check(resources, known, faults):
    functions(resources, known, faults)
    tables(resources, faults)
    logs(resources, known, faults)


def tables(resources, faults):
    found = of_type(resources, "AWS::DynamoDB::Table")
    if found.keys() != {"DataTable", "LedgerTable"}:
        faults.append(f"tables: {sorted(found)}")
    # The ledger outlives whatever the data table's backups hold, so it has the longest there is.
    for name, suffix, days in [("DataTable", "data", {"Ref": "BackupDays"}), ("LedgerTable", "ledger", 35)]:
        wanted = {
            "TableName": ("name", {"Fn::Sub": "${Deployment}-" + suffix}),
            "TimeToLiveSpecification": ("expiry", {"AttributeName": "ttl", "Enabled": True}),
            "PointInTimeRecoverySpecification": (
                "backups",
                {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": days},
            ),
            "DeletionProtectionEnabled": ("protection", True),
            "BillingMode": ("billing", "PAY_PER_REQUEST"),
            # By AWS's own key: ours wraps root keys and nothing else, and whoever reads a table needs no right to it.
            "SSESpecification": ("encryption", {"SSEEnabled": True}),
            "AttributeDefinitions": ("attributes", [{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")]),
            "KeySchema": (
                "keys",
                [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            ),
        }
        table = found.get(name, {})
        for part, (what, value) in wanted.items():
            if table.get(part) != value:
                faults.append(f"{name}: {what}")
        for part in sorted(table.keys() - wanted.keys()):
            faults.append(f"{name} has {part}")


def logs(resources, known, faults):
    """A log group for each function and for the gateway, kept for as long as the parameter says."""
    wanted = {resource_name(f) + "Log": f for f in [r["name"] for r in known["routes"]] + known["scheduled"]}
    wanted["ApiLog"] = "api"
    found = of_type(resources, "AWS::Logs::LogGroup")
    for name in sorted(found.keys() ^ wanted.keys()):
        faults.append(f"{name} is {'nobody' if name in found else 'missing, somebody'}'s log")
    for name in sorted(found.keys() & wanted.keys()):
        if found[name].get("LogGroupName") != {"Fn::Sub": "/theazo/${Deployment}/" + wanted[name]}:
            faults.append(f"{name} is called {found[name].get('LogGroupName')}")
        if found[name].get("RetentionInDays") != {"Ref": "LogRetentionDays"}:
            faults.append(f"{name} is kept for {found[name].get('RetentionInDays', 'ever')}")
        if found[name].keys() - {"LogGroupName", "RetentionInDays"}:
            faults.append(f"{name} is made of {sorted(found[name])}")


def functions(resources, known, faults):
    routes = {route["name"]: route for route in known["routes"]}
    for function in list(routes) + known["scheduled"]:
        name = resource_name(function)
        properties = resources[name + "Function"]["Properties"]
        route = routes.get(function)
        # Its metrics are looked at by this name.
        if properties["FunctionName"] != {"Fn::Sub": "${Deployment}_" + function}:
            faults.append(f"{function} is called {properties['FunctionName']}")
        streams = route is not None and route["streams"]
        timeout = SCHEDULED_S if route is None else STREAM_S if streams else BUFFERED_S
        if properties["Timeout"] != timeout:
            faults.append(f"{function} is cut off after {properties['Timeout']} s")
        reserved = 1 if route is None else None
        if streams:
            reserved = {"Ref": "ExecConcurrency" if function.endswith("exec") else "StreamConcurrency"}
        if properties.get("ReservedConcurrentExecutions") != reserved:
            faults.append(f"{function} has a concurrency of {properties.get('ReservedConcurrentExecutions')}")
        environment(function, properties["Environment"]["Variables"], route, known, faults)
        sandboxes = function in known["scheduledWithSandboxes"] if route is None else route["sandboxes"]
        network = NETWORK if sandboxes else None
        if properties.get("VpcConfig") != network:
            faults.append(f"{function} is in the wrong network")
        parts = PARTS | ({"VpcConfig"} if network else set()) | ({"ReservedConcurrentExecutions"} if reserved else set())
        for part in sorted(properties.keys() ^ parts):
            faults.append(f"{function} has {'a' if part in properties else 'no'} {part}")
        if properties.get("LoggingConfig") != {"LogGroup": {"Ref": name + "Log"}}:
            faults.append(f"{function} does not write into its own log")
        for part, value in [
            ("Runtime", "provided.al2023"),
            ("Handler", "bootstrap"),
            ("MemorySize", 1024 if route is None else 256),
            ("Architectures", [{"Ref": "Architecture"}]),
        ]:
            if properties.get(part) != value:
                faults.append(f"{function}'s {part} is {properties.get(part)}")
    scheduled(resources, known, faults)
    callers(resources, faults)


def callers(resources, faults):
    """Nobody calls a function but this gateway and the clock's rules of this stack."""
    rules = [{"Fn::GetAtt": [name, "Arn"]} for name in of_type(resources, "AWS::Events::Rule")]
    for name, permission in of_type(resources, "AWS::Lambda::Permission").items():
        source = permission.get("SourceArn", {})
        of_gateway = source.get("Fn::Sub", [None, {}])[1].get("__ApiId__") == {"Ref": "Api"}
        principal = "apigateway.amazonaws.com" if of_gateway else "events.amazonaws.com" if source in rules else None
        if permission.get("Action") != "lambda:InvokeFunction" or permission.get("Principal") != principal:
            faults.append(f"{name} lets {permission.get('Principal')} call")


def environment(function, variables, route, known, faults):
    wanted = set(known["variables"])
    for variable in sorted(wanted ^ ENVIRONMENT.keys()):
        faults.append(f"it is not known here what {variable} says")
    if route is None or not route["authenticates"]:
        wanted.discard("THEAZO_CREDENTIAL_KEY")
    for variable in sorted(wanted ^ variables.keys()):
        faults.append(f"{function}: {variable} is only in the {'template' if variable in variables else 'functions'}")
    for variable in sorted(wanted & variables.keys()):
        if variables[variable] != ENVIRONMENT.get(variable):
            faults.append(f"{function}: {variable} says {variables[variable]}")


def scheduled(resources, known, faults):
    """Each scheduled function has a rule that is on, and a run that failed is not repeated: the next one does its work."""
    rules = list(of_type(resources, "AWS::Events::Rule").values())
    repeats = of_type(resources, "AWS::Lambda::EventInvokeConfig")
    if len(rules) != len(known["scheduled"]):
        faults.append(f"{len(rules)} rules of the clock")
    for function in known["scheduled"]:
        name = resource_name(function) + "Function"
        mine = [rule for rule in rules if [t["Arn"] for t in rule["Targets"]] == [{"Fn::GetAtt": [name, "Arn"]}]]
        said = [(rule.get("ScheduleExpression"), rule.get("State", "ENABLED")) for rule in mine]
        if said != [("rate(1 minute)", "ENABLED")]:
            faults.append(f"{function} is not started every minute")
        mine = [repeat for repeat in repeats.values() if repeat["FunctionName"] == {"Ref": name}]
        said = [(repeat.get("MaximumRetryAttempts"), repeat.get("MaximumEventAgeInSeconds")) for repeat in mine]
        if said != [(0, 60)]:
            faults.append(f"{function} is repeated beside the clock")

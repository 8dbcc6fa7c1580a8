//! Faults that are put into copies of the template, so that it stays proven that each is found, and for what it is.
//!
//! One that passes is one that could be deployed: whoever adds a check adds the fault that it is there for.

use crate::{assert_found, check, guide, rand_name, tool, with_faults};
use theazo_deploy::repository;

/// What stands in the template, what is put in its place the first time, and what must be said of it.
type Fault = (&'static str, &'static str, &'static str);

/// Puts them into one template together, so that none may hide another.
fn all_are_found(faults: &[Fault]) {
    let Some(sam) = tool("sam") else { return };
    let template = std::fs::read_to_string(repository().join("infra/template.yaml")).unwrap();
    let bad = with_faults(&template, faults);
    let path = std::env::temp_dir().join(format!("theazo-fault-{}.yaml", rand_name()));
    std::fs::write(&path, bad).unwrap();
    let counted = check(&sam, &path, &guide::text());
    let _ = std::fs::remove_file(path);
    assert_found(&counted, faults.iter().copied());
}

#[test]
fn faults_that_are_put_into_the_template_are_found_each_for_what_it_is() {
    all_are_found(&[
        ("!Sub '${DataTable.Arn}_*'", "!Sub '${DataTabel.Arn}_*'", "DataTabel, which does not exist"),
        ("Action: dynamodb:GetItem", "Action: dynamodb:*", "Role is granted dynamodb:*"),
        ("'*#names'", "'*'", "is granted other than recorded: ['data']"),
        ("Path: /v1/whoami", "Path: /v1/whoamI", "/v1/whoamI') is only in the gateway"),
        (
            "FunctionName: !Sub '${Deployment}_whoami'",
            "FunctionName: theazo-whoami",
            "WhoamiFunction is not named after",
        ),
        ("RoleName: !Sub '${Deployment}_whoami'", "RoleName: !Sub '${Deployment}-whoami'", "whoami's role is called"),
        ("MetricNamespace: !Sub 'Theazo/${Deployment}'", "MetricNamespace: Theazo", "counts for every deployment"),
        ("ResponseTransferMode: RESPONSE_STREAM", "ResponseTransferMode: STREAM", "streams in the table is True"),
        ("Role: !GetAtt HealthRole.Arn", "Role: !GetAtt UpkeepRole.Arn", "health has another function's role"),
        ("THEAZO_E2B_API_URL:", "THEAZO_E2B_URL:", "THEAZO_E2B_API_URL is only in the functions"),
        ("DeletionPolicy: Retain", "DeletionPolicy: Delete", "DataTable would be deleted with its stack"),
        ("      OpenApiVersion: 3.0.1\n", "", "makes a second stage, Stage"),
        (
            "kms:EncryptionContext:theazo:purpose: root-key\n                    kms:EncryptionContext:theazo:deployment: !Ref Deployment\n              - Sid: Log",
            "kms:EncryptionContext:theazo:purpose: any\n              - Sid: Log",
            "Decrypt is not bound to the encryption context",
        ),
        (
            "kms:EncryptionContext:theazo:purpose: root-key\n                    kms:EncryptionContext:theazo:deployment: !Ref Deployment\n              - Sid: SealCredentials",
            "kms:EncryptionContext:theazo:purpose: any\n              - Sid: SealCredentials",
            "the operator may use the key for something else",
        ),
        (
            "Sid: OpenRootKeys\n            Effect: Allow\n            Principal: {AWS: !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:root'}",
            "Sid: OpenRootKeys\n            Effect: Allow\n            Principal: {AWS: '*'}",
            "the key's OpenRootKeys is for",
        ),
        ("role/${Deployment}_upkeep'\n", "role/${Deployment}_*'\n", "the key's OpenRootKeys is not for just the roles"),
        ("- kms:DescribeKey\n", "- kms:Decrypt\n", "who administers the key may use it"),
        ("\"route\":\"$context.resourcePath\"", "\"route\":\"$context.path\"", "the access log says something else"),
        ("!Ref StageBurst", "1", "the stage's throttles or logs differ"),
        (
            "\"code\":\"rate_limited\",\"message\":\"Too many requests.\",\"details\":{\"retryAfter\":1}",
            "\"code\":\"limited\"",
            "the gateway's THROTTLED is not an error of ours",
        ),
        ("AttributeName: ttl", "AttributeName: expires", "DataTable: expiry"),
        (
            "MetricName: ReadThrottleEvents",
            "MetricName: ThrottledRequests",
            "ThrottledRequests by ['TableName'], of which there is none",
        ),
        (
            "MetricName: KmsErrors\n      Statistic",
            "MetricName: KeyErrors\n      Statistic",
            "looks at KeyErrors, which nothing counts so",
        ),
        ("\"${Deployment}_agents-list\"], ", "\"${Deployment}_agents\"], ", "does not show every function's Errors"),
        ("ReservedConcurrentExecutions: 1", "ReservedConcurrentExecutions: 2", "reconcile has a concurrency of 2"),
        ("Timeout: 120", "Timeout: 60", "reconcile is cut off after 60 s"),
        (
            "!If [HasPrices, !Ref PricesJson",
            "!If [HasPrice, !Ref PricesJson",
            "condition:HasPrice, which does not exist",
        ),
    ]);
}

#[test]
fn roles_that_grant_more_or_less_or_to_others_are_found() {
    all_are_found(&[
        (
            "              - Sid: Log\n                Effect: Allow\n                Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt WhoamiLog.Arn\n",
            "",
            "whoami is granted other than its log beside what was recorded: []",
        ),
        (
            "              - Sid: Log\n                Effect: Allow\n                Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt ReconcileLog.Arn\n",
            "              - Sid: Log\n                Effect: Allow\n                Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt ReconcileLog.Arn\n              - {Sid: Secret, Effect: Allow, Action: secretsmanager:GetSecretValue, Resource: !Ref CredentialKey}\n",
            "reconcile is granted other than its log beside what was recorded: ['logs:CreateLogStream', 'logs:PutLogEvents', 'secretsmanager:GetSecretValue']",
        ),
        ("!GetAtt DocsLog.Arn", "!GetAtt HealthLog.Arn", "docs is granted other than its log"),
        (
            "        - !If\n          - HasVpc\n          - PolicyName: network",
            "        - !If\n          - HasDomain\n          - PolicyName: network",
            "'s network permissions are not those of a function that calls providers",
        ),
        (
            "Resource: !Sub 'arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:network-interface/*'",
            "Resource: !Sub 'arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:*/*'",
            "is granted ec2:CreateNetworkInterface on everything like",
        ),
        (
            "function:${Deployment}_agents-pause'",
            "function:${Deployment}_agents-get'",
            "agents-pause's network permissions are not those of a function that calls providers",
        ),
        (
            "              - Sid: Log\n                Effect: Allow\n                Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt OpenapiLog.Arn\n",
            "              - Sid: Log\n                Effect: Allow\n                Action: [logs:CreateLogStream, logs:PutLogEvents]\n                Resource: !GetAtt OpenapiLog.Arn\n        - !If\n          - HasVpc\n          - PolicyName: network\n            PolicyDocument:\n              Version: '2012-10-17'\n              Statement:\n                - {Sid: NetworkInterfaces, Effect: Allow, Action: [ec2:DeleteNetworkInterface], Resource: '*'}\n          - !Ref AWS::NoValue\n",
            "openapi's network permissions are not those of a function that does not call providers",
        ),
        (
            "Sid: DataGetItem\n                Effect: Allow",
            "Sid: DataGetItem\n                Effect: Deny",
            "DataGetItem does not allow",
        ),
        (
            "RoleName: !Sub '${Deployment}_health'\n      AssumeRolePolicyDocument:\n        Version: '2012-10-17'\n        Statement:\n          - Effect: Allow\n            Principal: {Service: lambda.amazonaws.com}",
            "RoleName: !Sub '${Deployment}_health'\n      AssumeRolePolicyDocument:\n        Version: '2012-10-17'\n        Statement:\n          - Effect: Allow\n            Principal: {AWS: '*'}",
            "health's role can be taken on by others than Lambda",
        ),
        (
            "RoleName: !Sub '${Deployment}_docs'\n",
            "RoleName: !Sub '${Deployment}_docs'\n      PermissionsBoundary: !GetAtt OperatorRole.Arn\n",
            "docs's role is made of",
        ),
        ("- PolicyName: agents-list\n", "- PolicyName: agents\n", "agents-list's policy is not one of its name"),
        (
            "Action: kms:Decrypt\n                Resource: !GetAtt RootWrappingKey.Arn",
            "Action: kms:Decrypt\n                Resource: [!Sub 'arn:${AWS::Partition}:kms:*:${AWS::AccountId}:key/*']",
            "is granted kms:Decrypt on everything like",
        ),
    ]);
}

#[test]
fn an_operator_who_may_more_or_less_and_a_key_for_others_are_found() {
    all_are_found(&[
        ("                  - dynamodb:BatchWriteItem\n", "", "the operator's Tables has another Action"),
        (
            "- !Sub '${LedgerTable.Arn}_*'",
            "- '*'",
            "OperatorRole is granted dynamodb:ConditionCheckItem on everything like [{'Fn::Sub': '${DataTable.Arn}_*'}, '*']",
        ),
        (
            "Resource: !Ref CredentialKey\n",
            "Resource: !Sub 'arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:*'\n",
            "the operator's SealCredentials has another Resource",
        ),
        (
            "{aws:MultiFactorAuthPresent: 'true'}",
            "{aws:MultiFactorAuthPresent: 'false'}",
            "the operator's role can be taken on without a second factor",
        ),
        (
            "              - Sid: SealCredentials\n                Effect: Allow\n",
            "              - Sid: SealCredentials\n                Effect: Deny\n",
            "the operator's SealCredentials does not allow",
        ),
        (
            "MaxSessionDuration: 3600",
            "MaxSessionDuration: 43200",
            "the operator's role has another name or lasts for another time",
        ),
        (
            "          - Sid: MakeRootKeys\n            Effect: Allow\n            Principal: {AWS: !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:root'}\n            Action: [kms:GenerateDataKeyWithoutPlaintext, kms:ReEncryptFrom, kms:ReEncryptTo]\n            Resource: '*'\n            Condition:\n              StringEquals:\n                kms:EncryptionContext:theazo:purpose: root-key\n                kms:EncryptionContext:theazo:deployment: !Ref Deployment\n              ArnEquals:\n                aws:PrincipalArn:\n                  - !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${Deployment}_upkeep'\n                  - !Sub 'arn:${AWS::Partition}:iam::${AWS::AccountId}:role/${Deployment}_operator'\n",
            "",
            "the key's policy allows ReEncryptFrom by []",
        ),
        ("              - kms:PutKeyPolicy\n", "", "the key's policy allows PutKeyPolicy by []"),
        (
            "              - kms:UntagResource\n",
            "              - kms:UntagResource\n              - kms:CreateAlias\n",
            "the key's policy allows CreateAlias by ['Administer']",
        ),
        ("EnableKeyRotation: true", "EnableKeyRotation: false", "the key's own material is not rotated"),
        ("PendingWindowInDays: 30", "PendingWindowInDays: 7", "a deleted key is not kept for as long as it can be"),
        (
            "PolicyName: operate\n          PolicyDocument:\n            Version: '2012-10-17'",
            "PolicyName: operate\n          PolicyDocument:\n            Version: '2008-10-17'",
            "the operator's policy is in another language",
        ),
        (
            "KeyPolicy:\n        Version: '2012-10-17'",
            "KeyPolicy:\n        Version: '2008-10-17'",
            "the key's policy is in another language",
        ),
        ("PasswordLength: 64", "PasswordLength: 32", "the credential key is not 64 hexadecimal digits"),
    ]);
}

#[test]
fn tables_logs_and_functions_that_are_set_up_otherwise_are_found() {
    all_are_found(&[
        (
            "SSESpecification:\n        SSEEnabled: true\n",
            "SSESpecification:\n        SSEEnabled: true\n        SSEType: KMS\n        KMSMasterKeyId: !Ref RootWrappingKey\n",
            "DataTable: encryption",
        ),
        ("RecoveryPeriodInDays: !Ref BackupDays", "RecoveryPeriodInDays: 1", "DataTable: backups"),
        ("RecoveryPeriodInDays: 35", "RecoveryPeriodInDays: 7", "LedgerTable: backups"),
        ("DeletionProtectionEnabled: true", "DeletionProtectionEnabled: false", "DataTable: protection"),
        (
            "- {AttributeName: sk, KeyType: RANGE}\n",
            "- {AttributeName: sk, KeyType: RANGE}\n      StreamSpecification: {StreamViewType: NEW_AND_OLD_IMAGES}\n",
            "DataTable has StreamSpecification",
        ),
        (
            "LogGroupName: !Sub '/theazo/${Deployment}/api'\n      RetentionInDays: !Ref LogRetentionDays\n",
            "LogGroupName: !Sub '/theazo/${Deployment}/api'\n",
            "ApiLog is kept for ever",
        ),
        (
            "LogGroupName: !Sub '/theazo/${Deployment}/whoami'\n      RetentionInDays: !Ref LogRetentionDays\n",
            "LogGroupName: !Sub '/theazo/${Deployment}/whoami'\n",
            "WhoamiLog is kept for ever",
        ),
        ("      LoggingConfig: {LogGroup: !Ref DocsLog}\n", "", "docs does not write into its own log"),
        (
            "LoggingConfig: {LogGroup: !Ref HealthLog}\n",
            "LoggingConfig: {LogGroup: !Ref HealthLog}\n      Tracing: Active\n",
            "health has a TracingConfig",
        ),
        (
            "LoggingConfig: {LogGroup: !Ref OpenapiLog}\n",
            "LoggingConfig: {LogGroup: !Ref OpenapiLog}\n      Layers: ['arn:aws:lambda:us-east-1:1:layer:x:1']\n",
            "openapi has a Layers",
        ),
        (
            "THEAZO_LEDGER: !If [HasOtherLedger, !Ref LedgerTableName, !Ref LedgerTable]",
            "THEAZO_LEDGER: !If [HasOtherTable, !Ref DataTableName, !Ref DataTable]",
            "whoami: THEAZO_LEDGER says",
        ),
        (
            "THEAZO_LOG_RETENTION_DAYS: !Ref LogEntryDays",
            "THEAZO_LOG_RETENTION_DAYS: !Ref LogRetentionDays",
            "whoami: THEAZO_LOG_RETENTION_DAYS says",
        ),
        (
            "!Sub '{{resolve:secretsmanager:${CredentialKey}:SecretString}}'",
            "secret",
            "THEAZO_CREDENTIAL_KEY says secret",
        ),
        (
            "{SubnetIds: !Ref ProviderSubnets, SecurityGroupIds: !Ref ProviderSecurityGroups}",
            "{SubnetIds: !Ref ProviderSubnets, SecurityGroupIds: []}",
            "is in the wrong network",
        ),
        (
            "  DomainMapping:\n    Type: AWS::ApiGateway::BasePathMapping\n    Condition: HasDomain\n",
            "  DomainMapping:\n    Type: AWS::ApiGateway::BasePathMapping\n    Condition: HasFirewall\n",
            "DomainMapping does not lead a domain of one's own to the API",
        ),
        ("SecurityPolicy: TLS_1_2", "SecurityPolicy: TLS_1_0", "Domain does not lead a domain of one's own to the API"),
        (
            "DestinationArn: !GetAtt ApiLog.Arn",
            "DestinationArn: !GetAtt HealthLog.Arn",
            "the access log goes elsewhere",
        ),
        (
            "Properties: {Schedule: rate(1 minute)}",
            "Properties: {Schedule: rate(1 minute), Enabled: false}",
            "reconcile is not started every minute",
        ),
        (
            "\n  DocsLog:\n",
            "\n  Anybody:\n    Type: AWS::Lambda::Permission\n    Properties: {Action: 'lambda:InvokeFunction', FunctionName: !Ref DocsFunction, Principal: '*'}\n  DocsLog:\n",
            "Anybody lets * call",
        ),
        (
            "FunctionName: !Sub '${Deployment}_agents-list'",
            "FunctionName: !Sub '${Deployment}_agents'",
            "agents-list is called",
        ),
        ("MaximumRetryAttempts: 0", "MaximumRetryAttempts: 2", "reconcile is repeated beside the clock"),
    ]);
}

#[test]
fn alarms_that_are_missing_or_silent_or_about_something_else_are_found() {
    all_are_found(&[
        (
            "  StoreErrorsAlarm:\n    Type: AWS::CloudWatch::Alarm\n    Properties:\n      AlarmName: !Sub '${Deployment}-store-errors'\n      AlarmDescription: A change, its audit entry or log entries could not be written.\n      AlarmActions: [!Ref AlarmTopic]\n      Namespace: !Sub 'Theazo/${Deployment}'\n      MetricName: StoreErrors\n      Statistic: Sum\n      Period: 300\n      EvaluationPeriods: 1\n      Threshold: 0\n      ComparisonOperator: GreaterThanThreshold\n      TreatMissingData: notBreaching\n\n",
            "",
            "there is no alarm store-errors",
        ),
        (
            "AlarmName: !Sub '${Deployment}-orphans'",
            "AlarmName: !Sub '${Deployment}-lost'",
            "the guide's alarms are others: ['lost', 'orphans', 'store-errors']",
        ),
        (
            "AlarmDescription: More than 1 in 100 answers in 5 minutes was a 5xx.\n      AlarmActions: [!Ref AlarmTopic]\n",
            "AlarmDescription: More than 1 in 100 answers in 5 minutes was a 5xx.\n",
            "ServerErrorsAlarm tells nobody",
        ),
        (
            "TreatMissingData: breaching",
            "TreatMissingData: notBreaching",
            "the alarm reconcile-lag has other TreatMissingData",
        ),
        ("Threshold: 20000", "Threshold: 25000", "the alarm slow-answers has other Threshold"),
        ("Threshold: 0.01", "Threshold: 1", "the alarm server-errors has other Threshold"),
        (
            "MetricName: KmsErrors\n      Statistic: Sum",
            "MetricName: KmsErrors\n      Statistic: Average",
            "the alarm kms-errors has other Statistic",
        ),
        (
            "SUM([reads, writes, ledgerReads, ledgerWrites])",
            "SUM([reads, writes])",
            "the alarm table-throttles has other Metrics",
        ),
        (
            "Threshold: 10\n",
            "Threshold: 10\n      ActionsEnabled: false\n",
            "the alarm account-throttles has other ActionsEnabled",
        ),
        (
            "Threshold: 3\n      ComparisonOperator: GreaterThanOrEqualToThreshold",
            "Threshold: 3\n      ComparisonOperator: LessThanThreshold",
            "the alarm upkeep-errors has other ComparisonOperator",
        ),
        (
            "Value: !Ref AgentsLogsStreamFunction",
            "Value: !Ref LogsStreamFunction",
            "the alarm reserved-throttles has other Metrics",
        ),
        (
            "  WhoamiStoreErrors:\n    Type: AWS::Logs::MetricFilter\n    Properties:\n      LogGroupName: !Ref WhoamiLog\n      FilterPattern: '{ ($.message = \"the store failed\") || ($.message = \"log entries are lost\") }'\n      MetricTransformations:\n        - MetricNamespace: !Sub 'Theazo/${Deployment}'\n          MetricName: StoreErrors\n          MetricValue: '1'\n\n",
            "",
            "WhoamiStoreErrors is missing",
        ),
        ("the key service refused\") }'", "the key service\") }'", "KmsErrors is another count than it should be"),
        ("Protocol: email", "Protocol: sms", "alarms are not sent to the address that was given"),
        (
            "[\".\", \"WriteThrottleEvents\", \".\", \".\"]",
            "[\".\", \"ReadThrottleEvents\", \".\", \".\"]",
            "the dashboard's Data table shows something else",
        ),
        ("{\"stat\": \"p99\"}", "{\"stat\": \"p90\"}", "the dashboard's latencies are"),
        (
            "\"title\": \"Key service and store\", \"region\": \"${AWS::Region}\"",
            "\"title\": \"Key service and store\", \"region\": \"us-east-1\"",
            "the dashboard's Key service and store is of another region or time",
        ),
    ]);
}

#[test]
fn other_builds_parameters_conditions_and_outputs_are_found() {
    all_are_found(&[
        ("    Default: arm64\n", "    Default: x86_64\n", "functions are not for arm64 unless x86_64 is asked for"),
        ("Architectures: [!Ref Architecture]", "Architectures: [arm64]", "functions' Architectures is ['arm64']"),
        ("Runtime: provided.al2023", "Runtime: provided.al2", "functions' Runtime is provided.al2"),
        (
            "BuildMethod: rust-cargolambda\n      BuildProperties: {Binary: docs}",
            "BuildMethod: makefile\n      BuildProperties: {Binary: docs}",
            "docs is built as {'BuildMethod': 'makefile'",
        ),
        ("{Binary: whoami}", "{Binary: health}", "whoami is built as"),
        (
            "AllowedPattern: '[a-z][a-z0-9-]{1,20}'",
            "AllowedPattern: '[a-z][a-z0-9_-]{1,20}'",
            "a deployment may be called 'the_azo'",
        ),
        (
            "HasVpc: !Not [!Equals [!Join ['', !Ref ProviderSubnets], '']]",
            "HasVpc: !Not [!Equals [!Ref DomainName, '']]",
            "the condition HasVpc is",
        ),
        ("  DomainTarget:\n", "  DomainPointer:\n", "the output DomainTarget is only in the guide"),
        ("Value: !GetAtt OperatorRole.Arn", "Value: !GetAtt HealthRole.Arn", "the output OperatorRoleArn is"),
        ("  CredentialKeySecret:\n", "  CredentialSecret:\n", "the output CredentialSecret is only in the template"),
        ("Threshold: 20\n", "Threshold: 21\n", "the alarm orphans has other Threshold"),
        (
            "AllowedValues: [1, 3, 5,",
            "AllowedValues: [1, 2, 5,",
            "logs may be kept for other times than CloudWatch can",
        ),
        (
            "    Condition: HasAlarmEmail\n",
            "    Condition: HasDomain\n",
            "alarms are not sent to the address that was given",
        ),
        ("    CodeUri: ..\n", "    CodeUri: .\n", "functions are built in ."),
        (
            "    Default: 900\n    MinValue: 60\n",
            "    Default: 900\n    MinValue: 1\n",
            "the parameter DeadHostSeconds is (900, 1, 86400)",
        ),
        (
            "(https://[^\\s/]+(/[^\\s/]+)*)?",
            "(https?://[^\\s/]+(/[^\\s/]+)*)?",
            "the parameter AgentEndpoint takes 'http://api.example.com'",
        ),
        ("    Default: none\n", "    Default: '*'\n", "the parameter CorsOrigin is '*' by"),
    ]);
}

#[test]
fn a_gateway_or_a_firewall_that_answers_or_stands_otherwise_is_found() {
    all_are_found(&[
        (
            "AllowHeaders: \"'authorization,content-type,idempotency-key,last-event-id'\"",
            "AllowHeaders: \"'authorization'\"",
            "browsers are told otherwise, or nothing, of",
        ),
        (
            "Retry-After: \"'1'\"",
            "Retry-After: \"'60'\"",
            "the gateway's THROTTLED says to ask again after '60' seconds",
        ),
        (
            "X-Request-Id: context.requestId",
            "X-Request-Id: context.extendedRequestId",
            "the gateway's DEFAULT_4XX tells of the ids",
        ),
        (
            "EndpointConfiguration: {Type: REGIONAL}",
            "EndpointConfiguration: {Type: EDGE}",
            "the API is at {'Types': ['EDGE']}",
        ),
        ("    StageName: live\n", "    StageName: live\n      TracingEnabled: true\n", "the stage traces or caches"),
        (
            "      OpenApiVersion: 3.0.1\n",
            "      OpenApiVersion: 3.0.1\n      MinimumCompressionSize: 0\n",
            "the API is made of",
        ),
        (
            "    Condition: HasFirewall\n    DependsOn: ApiliveStage",
            "    Condition: HasFirewall",
            "FirewallOnApi may be made before the stage",
        ),
        ("WebACLArn: !GetAtt Firewall.Arn", "WebACLArn: !Ref Firewall", "the firewall does not stand before the API"),
        (
            "DefaultAction: {Allow: {}}",
            "DefaultAction: {Block: {}}",
            "of the firewall that it lets everybody else through",
        ),
        ("SampledRequestsEnabled: false", "SampledRequestsEnabled: true", "of the firewall that it keeps no samples"),
        ("Limit: !Ref RequestsPerAddress", "Limit: 100", "of the firewall that it has one rule, and blocks by address"),
        (
            "Content: '{\"error\":{\"code\":\"rate_limited\"",
            "Content: '{\"error\":{\"code\":\"limited\"",
            "of the firewall that it answers with our error",
        ),
    ]);
}

//! One function's resources: itself, its role and its log.

use crate::counted::filters;
use crate::permissions::Permissions;
use crate::role::{indented, statements};
use std::fmt::Write;
use theazo_functions::deployment::CapabilityName;
use theazo_functions::routes::{ROUTES, Route};
use theazo_functions::schedule::SCHEDULED;
use theazo_http::RouteInfo;

/// Seconds within which the gateway wants a buffered answer.
const BUFFERED_TIMEOUT_S: u32 = 29;
/// Seconds for which a function may stream: the gateway's own limit.
const STREAM_TIMEOUT_S: u32 = 900;
/// Seconds of a scheduled run. A run bounds itself earlier.
const SCHEDULED_TIMEOUT_S: u32 = 120;
/// Memory of one, MiB: it holds the list of everybody's agents, and what many accounts say at a time.
const SCHEDULED_MEMORY_MB: u32 = 1024;

/// What the template knows of a function.
pub(crate) struct Function {
    /// Its binary, and what it is called after the deployment's name.
    pub(crate) name: &'static str,
    route: Option<&'static Route>,
    /// Whether it calls providers.
    sandboxes: bool,
}

/// Every function, in the order of the route table.
pub(crate) fn functions() -> impl Iterator<Item = Function> {
    let endpoints = ROUTES.iter().map(|route| Function {
        name: route.info.name,
        route: Some(route),
        sandboxes: route.capabilities.contains(&CapabilityName::Sandboxes),
    });
    endpoints.chain(SCHEDULED.iter().map(|function| Function {
        name: function.name,
        route: None,
        sandboxes: function.sandboxes,
    }))
}

/// `agents-create` as `AgentsCreate`.
pub(crate) fn resource_name(function: &str) -> String {
    function
        .split('-')
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            format!("{}{rest}", first.to_uppercase())
        })
        .collect()
}

/// The gateway's form of a path: `{path*}` is `{path+}` there.
pub(crate) fn gateway_path(info: &RouteInfo) -> String {
    info.pattern.0.replace("*}", "+}")
}

impl Function {
    fn streams(&self) -> bool {
        self.route.is_some_and(|route| route.info.streams)
    }

    /// All of its resources, as YAML at the indentation of a resource.
    pub(crate) fn resources(&self, permissions: &Permissions) -> String {
        let (name, id) = (self.name, resource_name(self.name));
        let mut out = String::new();
        let _ = writeln!(out, "{id}Function:\n  Type: AWS::Serverless::Function");
        let _ =
            writeln!(out, "  Metadata:\n    BuildMethod: rust-cargolambda\n    BuildProperties: {{Binary: {name}}}");
        let _ = writeln!(out, "  Properties:\n    FunctionName: !Sub '${{Deployment}}_{name}'");
        let _ = writeln!(out, "    Role: !GetAtt {id}Role.Arn");
        let _ = writeln!(out, "    LoggingConfig: {{LogGroup: !Ref {id}Log}}");
        match self.route {
            None => {
                let _ = writeln!(out, "    Timeout: {SCHEDULED_TIMEOUT_S}\n    MemorySize: {SCHEDULED_MEMORY_MB}");
                // Two runs at once could each stop what the other has seen resumed.
                out.push_str("    ReservedConcurrentExecutions: 1\n");
                // The next minute's run does what this one did not.
                out.push_str("    EventInvokeConfig: {MaximumRetryAttempts: 0, MaximumEventAgeInSeconds: 60}\n");
            }
            Some(_) if self.streams() => {
                let limit = if name.ends_with("exec") { "ExecConcurrency" } else { "StreamConcurrency" };
                let _ = writeln!(out, "    Timeout: {STREAM_TIMEOUT_S}");
                let _ = writeln!(out, "    ReservedConcurrentExecutions: !Ref {limit}");
            }
            Some(_) => {}
        }
        if self.sandboxes {
            out.push_str("    VpcConfig: !If\n      - HasVpc\n      - {SubnetIds: !Ref ProviderSubnets, ");
            out.push_str("SecurityGroupIds: !Ref ProviderSecurityGroups}\n      - !Ref AWS::NoValue\n");
        }
        if self.route.is_some_and(|route| route.info.authenticates()) {
            // Resolved when the function is updated; neither the template nor the stack's parameters ever hold it.
            out.push_str("    Environment:\n      Variables:\n        THEAZO_CREDENTIAL_KEY: ");
            out.push_str("!Sub '{{resolve:secretsmanager:${CredentialKey}:SecretString}}'\n");
        }
        out.push_str("    Events:\n");
        out.push_str(&indented(&self.events(), 6));
        self.role(&mut out, &id, permissions);
        let _ = writeln!(out, "{id}Log:\n  Type: AWS::Logs::LogGroup\n  Properties:");
        let _ = writeln!(out, "    LogGroupName: !Sub '/theazo/${{Deployment}}/{name}'");
        out.push_str("    RetentionInDays: !Ref LogRetentionDays\n");
        out.push_str(&filters(name, &id, permissions));
        out
    }

    fn events(&self) -> String {
        let Some(route) = self.route else {
            return "Minutely:\n  Type: Schedule\n  Properties: {Schedule: rate(1 minute)}\n".into();
        };
        let mut out = String::new();
        let mut event = |name: &str, path: &str, method: &str| {
            let _ = writeln!(out, "{name}:\n  Type: Api\n  Properties:\n    RestApiId: !Ref Api");
            let _ = writeln!(out, "    Path: {path}\n    Method: {method}");
            let seconds = if route.info.streams { STREAM_TIMEOUT_S } else { BUFFERED_TIMEOUT_S };
            let _ = writeln!(out, "    TimeoutInMillis: {}", seconds * 1000);
            if route.info.streams {
                // Not `STREAM`, as elsewhere in AWS: SAM takes that, and does not stream.
                out.push_str("    ResponseTransferMode: RESPONSE_STREAM\n");
            }
        };
        event("Call", &gateway_path(&route.info), &route.info.method.to_lowercase());
        if route.info.name == CATCH_ALL {
            // Paths that are nobody's: any function says so in our form, and this one may do nothing else.
            event("NobodysPath", "/{proxy+}", "any");
            event("Root", "/", "any");
        }
        out
    }

    fn role(&self, out: &mut String, id: &str, permissions: &Permissions) {
        let _ = writeln!(out, "{id}Role:\n  Type: AWS::IAM::Role");
        let _ = writeln!(out, "  Properties:\n    RoleName: !Sub '${{Deployment}}_{}'", self.name);
        out.push_str("    AssumeRolePolicyDocument:\n      Version: '2012-10-17'\n      Statement:\n");
        out.push_str("        - Effect: Allow\n          Principal: {Service: lambda.amazonaws.com}\n");
        out.push_str("          Action: sts:AssumeRole\n");
        let _ = writeln!(out, "    Policies:\n      - PolicyName: {}", self.name);
        out.push_str("        PolicyDocument:\n          Version: '2012-10-17'\n          Statement:\n");
        out.push_str(&statements(permissions, self.name, id, 12));
        if self.sandboxes {
            out.push_str(&indented(&VPC_POLICY.replace("FUNCTION", self.name), 6));
        }
    }
}

/// The function that answers for paths that are nobody's.
const CATCH_ALL: &str = "health";

/// What Lambda's service does with a function's network interfaces, with the function's own role. EC2 describes by no
/// resource; of the others, each is on the kinds of resources that it takes
/// (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html>). Which interfaces there will be
/// nobody knows before, so they are all of the account's own. The function's own code needs none of it, and is denied it.
const VPC_POLICY: &str = "\
- !If
  - HasVpc
  - PolicyName: network
    PolicyDocument:
      Version: '2012-10-17'
      Statement:
        - Sid: NetworkInterfaces
          Effect: Allow
          Action:
            - ec2:AssignPrivateIpAddresses
            - ec2:CreateNetworkInterface
            - ec2:DeleteNetworkInterface
            - ec2:UnassignPrivateIpAddresses
          Resource: !Sub 'arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:network-interface/*'
        - Sid: InTheirNetwork
          Effect: Allow
          Action: ec2:CreateNetworkInterface
          Resource:
            - !Sub 'arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:security-group/*'
            - !Sub 'arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:subnet/*'
        - Sid: Describe
          Effect: Allow
          Action:
            - ec2:DescribeNetworkInterfaces
            - ec2:DescribeSubnets
          Resource: '*'
        - Sid: NotByCode
          Effect: Deny
          Action:
            - ec2:AssignPrivateIpAddresses
            - ec2:CreateNetworkInterface
            - ec2:DeleteNetworkInterface
            - ec2:DescribeNetworkInterfaces
            - ec2:DescribeSubnets
            - ec2:UnassignPrivateIpAddresses
          Resource: '*'
          Condition:
            ArnEquals:
              lambda:SourceFunctionArn: !Sub 'arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${Deployment}_FUNCTION'
  - !Ref AWS::NoValue
";

//! Log entries that tests write themselves, and functions that are configured otherwise.

use super::stack;
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_http::StreamLimits;
use theazo_local::Stack;
use theazo_providers::docker::HostRanges;
use theazo_store::{Aws, AwsEndpoints, LogLevel, LogQueue, LogSource, LogWriter, NewLog, Session, Sessions};
use theazo_tenancy::{Mode, Operator, PlatformId, SessionId, TenantScope};

/// Writes lines straight into the table, as endpoints for what happens inside sandboxes do.
pub struct Lines {
    writer: LogWriter,
    scope: TenantScope,
    session: Session,
}

impl Lines {
    #[expect(clippy::disallowed_methods, reason = "a test writes for a tenant without a caller")]
    pub async fn of(stack: &Stack, platform: &PlatformId, mode: Mode, session: &str) -> Self {
        let deployment = with_config(stack, stack.deployment().config().clone());
        let table = deployment.table();
        let scope = Operator::assume().tenant(platform, mode);
        let id = SessionId::parse(session).unwrap();
        let session = Sessions::new(table.clone()).get(&scope, &id).await.unwrap().unwrap();
        Self { writer: LogWriter::new(table.clone(), LogQueue::default()), scope, session }
    }

    pub async fn write(&self, texts: impl IntoIterator<Item = String>) {
        let line = |text| NewLog::of_session(&self.session, LogLevel::Info, LogSource::Agent, text);
        self.writer.append(&self.scope, texts.into_iter().map(line).collect()).await.unwrap();
    }
}

/// The shared stack's functions, for a test that calls them itself, over connections of its own. A connection ends with the
/// runtime that made it: of the stack's, a test that is over would take some along, in the middle of what others ask.
pub fn own_deployment() -> Deployment {
    with_config(stack(), stack().deployment().config().clone())
}

/// That stack's table behind streams with other limits.
pub fn with_streams(stack: &Stack, streams: StreamLimits) -> Deployment {
    with_config(stack, DeploymentConfig { streams, ..stack.deployment().config().clone() })
}

/// That stack's table behind functions that let hosts be on the internet only, as where nobody has configured more.
pub fn own_machine_is_no_host(stack: &Stack) -> Deployment {
    with_config(stack, DeploymentConfig { docker_ranges: HostRanges::default(), ..stack.deployment().config().clone() })
}

fn with_config(stack: &Stack, config: DeploymentConfig) -> Deployment {
    let aws = Aws::local(&AwsEndpoints { dynamodb: stack.dynamodb_url(), kms: Some(stack.kms_url()) });
    Deployment::new(&aws, config)
}

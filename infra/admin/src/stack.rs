//! What CloudFormation says of a deployment's stack: which template it was made of, and whether its resources, each
//! function's role among them, are still as that template has them.

use crate::output::note;
use aws_sdk_cloudformation::Client;
use aws_sdk_cloudformation::error::DisplayErrorContext;
use aws_sdk_cloudformation::types::{StackDriftDetectionStatus, StackResourceDriftStatus};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long comparing may take: some minutes for hundreds of resources
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/detect-drift-stack.html>).
pub(crate) const PATIENCE: Duration = Duration::from_secs(15 * 60);
const PAUSE: Duration = Duration::from_secs(2);
/// How often whoever waits is told that it goes on.
const TELL_EVERY: Duration = Duration::from_secs(20);
/// Resources that are asked for in one call, which is as many as there can be.
const PAGE: i32 = 100;
/// More resources than any template may have, in pages of one.
const MAX_PAGES: usize = 500;

/// The stack of a deployment.
pub(crate) struct Stack {
    client: Client,
    name: String,
}

/// Resources that are not as the template has them.
pub(crate) struct Drift {
    /// Roles of functions.
    pub(crate) roles: Vec<String>,
    /// All others.
    pub(crate) others: Vec<String>,
    /// What kept CloudFormation from comparing all of them.
    pub(crate) incomplete: Option<String>,
}

impl Stack {
    /// By its name; nothing is asked yet. Region, credentials and endpoint are as the usual AWS variables say.
    pub(crate) async fn named(name: &str) -> Self {
        Self { client: Client::new(&theazo_store::aws_config().await), name: name.to_owned() }
    }

    /// The `Metadata` of the template that it was made of.
    ///
    /// # Errors
    /// What CloudFormation says.
    pub(crate) async fn metadata(&self) -> Result<String, String> {
        let summary = self.client.get_template_summary().stack_name(&self.name).send().await;
        Ok(summary.map_err(|error| told(&error))?.metadata.unwrap_or_default())
    }

    /// Has CloudFormation compare the resources with the template, and waits for it.
    ///
    /// # Errors
    /// What CloudFormation says, or that it takes too long.
    pub(crate) async fn drift(&self) -> Result<Drift, String> {
        let asked = self.client.detect_stack_drift().stack_name(&self.name).send().await;
        let id = asked.map_err(|error| told(&error))?.stack_drift_detection_id.unwrap_or_default();
        let begun = Instant::now();
        let mut told_at = None;
        let incomplete = loop {
            let status = self.client.describe_stack_drift_detection_status().stack_drift_detection_id(&id).send().await;
            let status = status.map_err(|error| told(&error))?;
            match status.detection_status {
                Some(StackDriftDetectionStatus::DetectionComplete) => break None,
                Some(StackDriftDetectionStatus::DetectionInProgress) if begun.elapsed() < PATIENCE => {
                    if told_at.is_none_or(|at: Instant| at.elapsed() >= TELL_EVERY) {
                        told_at = Some(Instant::now());
                        note(&format!(
                            "CloudFormation compares {} with its template: {} s so far, minutes are usual.",
                            self.name,
                            begun.elapsed().as_secs()
                        ));
                    }
                    sleep(PAUSE).await;
                }
                Some(StackDriftDetectionStatus::DetectionInProgress) => return Err("comparing takes too long".into()),
                // What could be compared is listed all the same.
                _ => break Some(status.detection_status_reason.unwrap_or_else(|| "no reason was given".into())),
            }
        };
        let mut drift = Drift { roles: Vec::new(), others: Vec::new(), incomplete };
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = self
                .client
                .describe_stack_resource_drifts()
                .stack_name(&self.name)
                .stack_resource_drift_status_filters(StackResourceDriftStatus::Modified)
                .stack_resource_drift_status_filters(StackResourceDriftStatus::Deleted)
                .max_results(PAGE)
                .set_next_token(next)
                .send()
                .await
                .map_err(|error| told(&error))?;
            for resource in page.stack_resource_drifts.unwrap_or_default() {
                let is_role = resource.resource_type.as_deref() == Some("AWS::IAM::Role");
                let list = if is_role { &mut drift.roles } else { &mut drift.others };
                list.push(resource.logical_resource_id.unwrap_or_default());
            }
            next = page.next_token;
            if next.is_none() {
                return Ok(drift);
            }
        }
        Err("the list of resources does not end".into())
    }
}

/// In a line, as deep as it goes: a denied call names the action that is missing.
fn told<E: std::error::Error>(error: E) -> String {
    DisplayErrorContext(error).to_string()
}

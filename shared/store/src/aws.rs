//! The AWS SDK's clients: how they are configured for production and for a local stack. Nothing else differs.

use crate::trips::{Turns, watched};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::timeout::TimeoutConfig;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long one attempt of a call may take. An item or an unwrapped key takes milliseconds; a page of 1 MB less than
/// a second.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
/// How long a call may take with all its attempts: less than half of the 29 s after which the gateway gives up on us,
/// so that a caller is told of it.
const CALL_LIMIT: Duration = Duration::from_secs(12);

/// Addresses of DynamoDB- and KMS-compatible services other than AWS's own.
#[derive(Clone, Debug)]
pub struct AwsEndpoints {
    /// For example `http://127.0.0.1:9001`.
    pub dynamodb: String,
    /// The key service; absent where no key is needed, as for the operator's command line.
    pub kms: Option<String>,
}

/// Clients for the table and the key service.
#[derive(Clone)]
pub struct Aws {
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) kms: aws_sdk_kms::Client,
}

/// Whom to believe that they are AWS. Reading a system's whole bundle is most of what a function does before its first
/// request; AWS's endpoints need five of its certificates.
const AMAZON_ROOTS: &str = include_str!("amazon_roots.pem");
/// Whoever sets one of these stands behind a proxy that makes certificates of its own.
const OWN_ROOTS: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

fn https_client() -> SharedHttpClient {
    let trusted = if OWN_ROOTS.iter().any(|name| std::env::var_os(name).is_some()) {
        TrustStore::default()
    } else {
        TrustStore::empty().with_pem_certificate(AMAZON_ROOTS)
    };
    let context = TlsContext::builder().with_trust_store(trusted).build().unwrap_or_default();
    let tls = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    tls.tls_context(context).build_https()
}

/// By themselves, the SDK's clients wait for ever on a service that does not answer.
fn limits() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_LIMIT)
        .operation_attempt_timeout(ATTEMPT_LIMIT)
        .operation_timeout(CALL_LIMIT)
        .build()
}

/// The configuration of clients for other services of AWS, as for the operator's command line: region, credentials and
/// endpoints as the usual AWS variables say.
pub async fn aws_config() -> aws_config::SdkConfig {
    aws_config::defaults(BehaviorVersion::latest()).http_client(https_client()).load().await
}

impl Aws {
    /// Region, credentials and endpoints as the usual AWS variables say; inside Lambda, the function's own role.
    pub async fn from_env() -> Self {
        let http = https_client();
        let shared = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone()).load().await;
        Self::from_config(&shared, http)
    }

    /// A local stack's services. Credentials are the SDK's formality there.
    pub fn local(endpoints: &AwsEndpoints) -> Self {
        let http = watched(aws_smithy_http_client::Builder::new().build_http(), Turns::OneLate);
        let credentials = Credentials::new("local", "local", None, None, "local stack");
        let dynamodb = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(&endpoints.dynamodb)
            .credentials_provider(credentials.clone())
            .http_client(http.clone())
            .timeout_config(limits())
            .build();
        let mut kms = aws_sdk_kms::Config::builder()
            .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
            .region(aws_sdk_kms::config::Region::new("us-east-1"))
            .credentials_provider(credentials)
            .http_client(http)
            .timeout_config(limits());
        kms.set_endpoint_url(endpoints.kms.clone());
        Self {
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb),
            kms: aws_sdk_kms::Client::from_conf(kms.build()),
        }
    }

    fn from_config(shared: &aws_config::SdkConfig, http: SharedHttpClient) -> Self {
        let http = watched(http, Turns::Now);
        let dynamodb = aws_sdk_dynamodb::config::Builder::from(shared).timeout_config(limits());
        let kms = aws_sdk_kms::config::Builder::from(shared).timeout_config(limits());
        Self {
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.http_client(http.clone()).build()),
            kms: aws_sdk_kms::Client::from_conf(kms.http_client(http).build()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_our_time_limits_wherever_it_is_configured() {
        let endpoints = AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None };
        let shared = aws_config::SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        for aws in [Aws::local(&endpoints), Aws::from_config(&shared, https_client())] {
            for set in [aws.dynamodb.config().timeout_config(), aws.kms.config().timeout_config()] {
                let set = set.unwrap();
                let limits = [set.connect_timeout(), set.operation_attempt_timeout(), set.operation_timeout()];
                assert_eq!(limits, [Some(CONNECT_LIMIT), Some(ATTEMPT_LIMIT), Some(CALL_LIMIT)]);
            }
        }
    }
}

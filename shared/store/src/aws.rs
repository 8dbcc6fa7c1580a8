//! The AWS SDK's clients: how they are configured for production and for a local stack. Nothing else differs.

use crate::StoreError;
use crate::aws_tls::https_client;
use crate::trips::{Turns, watched};
use aws_config::SdkConfig;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Builder as DynamoDbBuilder, Credentials, Region, SharedCredentialsProvider,
};
use aws_sdk_kms::config::Builder as KmsBuilder;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::timeout::TimeoutConfig;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
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
    pub(crate) dynamodb: Client<DynamoDb>,
    pub(crate) kms: Client<Kms>,
}

/// A service of AWS's that we call.
pub(crate) trait Service {
    type Config: Clone;
    type Client;

    fn client(config: Self::Config, http: SharedHttpClient) -> Self::Client;
}

/// The service that has the table.
pub(crate) enum DynamoDb {}

/// The key service.
pub(crate) enum Kms {}

impl Service for DynamoDb {
    type Config = aws_sdk_dynamodb::Config;
    type Client = aws_sdk_dynamodb::Client;

    fn client(config: Self::Config, http: SharedHttpClient) -> Self::Client {
        Self::Client::from_conf(config.to_builder().http_client(http).build())
    }
}

impl Service for Kms {
    type Config = aws_sdk_kms::Config;
    type Client = aws_sdk_kms::Client;

    fn client(config: Self::Config, http: SharedHttpClient) -> Self::Client {
        Self::Client::from_conf(config.to_builder().http_client(http).build())
    }
}

/// How services are reached. Clones share connections.
#[derive(Clone)]
enum Transport {
    /// By TLS, as AWS's own endpoints are. The client is made at its first use.
    Tls(Arc<OnceLock<SharedHttpClient>>),
    /// By that client.
    Given(SharedHttpClient),
}

impl Transport {
    fn http(&self) -> SharedHttpClient {
        match self {
            Self::Tls(made) => made.get_or_init(|| watched(https_client(), Turns::Now)).clone(),
            Self::Given(http) => http.clone(),
        }
    }
}

/// A service's client, made at its first use: making one takes as long as starting a function that does nothing. Clones
/// share it. Whoever never uses it does not even contain its code, nor that of TLS: of what a function runs, nothing but
/// [`Client::deref`] may name either.
pub(crate) struct Client<S: Service> {
    config: S::Config,
    transport: Transport,
    made: Arc<OnceLock<S::Client>>,
}

impl<S: Service> Client<S> {
    fn of(config: S::Config, transport: Transport) -> Self {
        Self { config, transport, made: Arc::default() }
    }
}

impl<S: Service> Clone for Client<S> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), transport: self.transport.clone(), made: self.made.clone() }
    }
}

impl<S: Service> Deref for Client<S> {
    type Target = S::Client;

    fn deref(&self) -> &S::Client {
        self.made.get_or_init(|| S::client(self.config.clone(), self.transport.http()))
    }
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
pub async fn aws_config() -> SdkConfig {
    let defaults = aws_config::defaults(BehaviorVersion::latest()).http_client(https_client());
    defaults.timeout_config(limits()).load().await
}

impl Aws {
    /// Region, credentials and endpoints as the usual AWS variables and files say, for the operator's command line.
    pub async fn from_env() -> Self {
        let http = https_client();
        let shared = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone()).load().await;
        Self::from_config(&shared, Transport::Given(watched(http, Turns::Now)))
    }

    /// As the environment of a Lambda function says, which is all that a function has: its region, the credentials of its
    /// role, and whether endpoints are others than the region's usual ones. The SDK's own loader also prepares for files and
    /// for services that hand out credentials; that is a third of a function's start.
    ///
    /// # Errors
    /// [`StoreError::Environment`] without a region, or when a switch is neither `true` nor `false`.
    pub fn of_function() -> Result<Self, StoreError> {
        Self::of_environment(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of_environment(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let region = get("AWS_REGION").ok_or(StoreError::Environment("AWS_REGION"))?;
        let switch = |name: &'static str| match get(name).map(|value| value.to_ascii_lowercase()).as_deref() {
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            None => Ok(None),
            Some(_) => Err(StoreError::Environment(name)),
        };
        let mut shared = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()));
        shared.set_use_fips(switch("AWS_USE_FIPS_ENDPOINT")?).set_use_dual_stack(switch("AWS_USE_DUALSTACK_ENDPOINT")?);
        let shared = shared.build();
        let endpoint = |name| get(name).or_else(|| get("AWS_ENDPOINT_URL"));
        let (mut dynamodb, mut kms) = (DynamoDbBuilder::from(&shared), KmsBuilder::from(&shared));
        dynamodb.set_endpoint_url(endpoint("AWS_ENDPOINT_URL_DYNAMODB"));
        kms.set_endpoint_url(endpoint("AWS_ENDPOINT_URL_KMS"));
        Ok(Self::of(dynamodb, kms, Transport::Tls(Arc::default())))
    }

    /// A local stack's services. Credentials are the SDK's formality there.
    pub fn local(endpoints: &AwsEndpoints) -> Self {
        let transport = Transport::Given(watched(aws_smithy_http_client::Builder::new().build_http(), Turns::OneLate));
        let credentials = Credentials::new("local", "local", None, None, "local stack");
        let dynamodb = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(&endpoints.dynamodb)
            .credentials_provider(credentials.clone())
            .timeout_config(limits())
            .build();
        let mut kms = aws_sdk_kms::Config::builder()
            .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
            .region(aws_sdk_kms::config::Region::new("us-east-1"))
            .credentials_provider(credentials)
            .timeout_config(limits());
        kms.set_endpoint_url(endpoints.kms.clone());
        Self { dynamodb: Client::of(dynamodb, transport.clone()), kms: Client::of(kms.build(), transport) }
    }

    fn from_config(shared: &SdkConfig, transport: Transport) -> Self {
        Self::of(DynamoDbBuilder::from(shared), KmsBuilder::from(shared), transport)
    }

    fn of(dynamodb: DynamoDbBuilder, kms: KmsBuilder, transport: Transport) -> Self {
        let (dynamodb, kms) = (dynamodb.timeout_config(limits()), kms.timeout_config(limits()));
        Self { dynamodb: Client::of(dynamodb.build(), transport.clone()), kms: Client::of(kms.build(), transport) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::retry::RetryConfig;
    use std::sync::Mutex;

    /// The addresses that were asked, none of which answers.
    #[derive(Clone, Debug, Default)]
    struct Asked(Arc<Mutex<Vec<String>>>);

    impl HttpConnector for Asked {
        fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
            self.0.lock().unwrap().push(request.uri().to_owned());
            HttpConnectorFuture::ready(Err(ConnectorError::user("nobody is there".into())))
        }
    }

    #[test]
    fn every_client_has_our_time_limits_wherever_it_is_configured() {
        let endpoints = AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None };
        let shared = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let of_function =
            Aws::of_environment(&|name| (name == "AWS_REGION").then(|| "eu-central-1".to_owned())).unwrap();
        for aws in [Aws::local(&endpoints), Aws::from_config(&shared, Transport::Tls(Arc::default())), of_function] {
            for set in [aws.dynamodb.config().timeout_config(), aws.kms.config().timeout_config()] {
                let set = set.unwrap();
                let limits = [set.connect_timeout(), set.operation_attempt_timeout(), set.operation_timeout()];
                assert_eq!(limits, [Some(CONNECT_LIMIT), Some(ATTEMPT_LIMIT), Some(CALL_LIMIT)]);
            }
        }
    }

    #[test]
    fn a_function_is_told_which_variable_is_missing_or_wrong() {
        let of = |variables: &[(&str, &str)]| {
            Aws::of_environment(&|asked| {
                variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(matches!(of(&[]), Err(StoreError::Environment("AWS_REGION"))));
        for name in ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"] {
            let Err(StoreError::Environment(named)) = of(&[("AWS_REGION", "eu-central-1"), (name, "yes")]) else {
                panic!("{name} is taken")
            };
            assert_eq!(named, name);
        }
    }

    #[tokio::test]
    async fn a_function_calls_the_region_its_role_and_the_endpoints_that_its_environment_names() {
        let of = |more: &[(&str, &str)]| {
            let mut variables = vec![("AWS_REGION", "eu-central-1")];
            variables.extend(more);
            let variables: Vec<_> =
                variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let aws = Aws::of_environment(&|asked| {
                variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.clone())
            });
            aws.unwrap()
        };
        let urls = [
            (&[][..], "https://dynamodb.eu-central-1.amazonaws.com/"),
            (&[("AWS_USE_FIPS_ENDPOINT", "true")], "https://dynamodb-fips.eu-central-1.amazonaws.com/"),
            (&[("AWS_USE_DUALSTACK_ENDPOINT", "TRUE")], "https://dynamodb.eu-central-1.api.aws/"),
            (&[("AWS_ENDPOINT_URL", "https://all.example")], "https://all.example/"),
            (
                &[("AWS_ENDPOINT_URL", "https://all.example"), ("AWS_ENDPOINT_URL_DYNAMODB", "https://own.example")],
                "https://own.example/",
            ),
        ];
        for (variables, expected) in urls {
            let asked = Asked::default();
            let connector = SharedHttpConnector::new(asked.clone());
            let config = of(variables)
                .dynamodb
                .config()
                .to_builder()
                .http_client(http_client_fn(move |_, _| connector.clone()))
                .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
                .retry_config(RetryConfig::disabled())
                .build();
            let refused = aws_sdk_dynamodb::Client::from_conf(config).list_tables().send().await;
            assert!(refused.is_err());
            assert_eq!(*asked.0.lock().unwrap(), [expected]);
        }
    }
}

//! Whom the SDK's clients believe that they are AWS.

use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// Reading a system's whole bundle is most of what a function does before its first request; AWS's endpoints need five of
/// its certificates.
const AMAZON_ROOTS: &str = include_str!("amazon_roots.pem");
/// Whoever sets one of these stands behind a proxy that makes certificates of its own.
const OWN_ROOTS: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// A client for AWS's endpoints.
pub(crate) fn https_client() -> SharedHttpClient {
    if OWN_ROOTS.iter().any(|name| std::env::var_os(name).is_some()) {
        return client(TrustStore::default());
    }
    client(amazon())
}

fn amazon() -> TrustStore {
    TrustStore::empty().with_pem_certificate(AMAZON_ROOTS)
}

fn client(trusted: TrustStore) -> SharedHttpClient {
    let context = TlsContext::builder().with_trust_store(trusted).build().unwrap_or_default();
    let tls = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    tls.tls_context(context).build_https()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_dynamodb::error::DisplayErrorContext;
    use aws_smithy_types::retry::RetryConfig;
    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use sha2::{Digest, Sha256};
    use std::sync::Arc;
    use theazo_docker_hosts::Authority;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// SHA-256 of each root, as <https://www.amazontrust.com/repository/> publishes it: Amazon Root CA 1 to 4, and Starfield
    /// Services Root Certificate Authority - G2.
    const PUBLISHED: [&str; 5] = [
        "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
        "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
        "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
        "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
        "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
    ];

    /// Lists tables at an endpoint that shows a certificate of that authority. Gives what came of it, and what the endpoint was
    /// told if a connection came about.
    async fn list_tables(
        authority: &Authority,
        http: SharedHttpClient,
    ) -> (Result<Vec<String>, String>, Option<String>) {
        let shown = authority.server("127.0.0.1");
        let chain = CertificateDer::pem_slice_iter(shown.cert.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (connection, _) = listener.accept().await.unwrap();
            let mut connection = TlsAcceptor::from(Arc::new(config)).accept(connection).await.ok()?;
            let mut asked = Vec::new();
            // A header, and a body of two bytes.
            while !asked.ends_with(b"{}") {
                if connection.read_buf(&mut asked).await.ok()? == 0 {
                    break;
                }
            }
            let body = r#"{"TableNames":["one"]}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            connection.write_all(answer.as_bytes()).await.ok()?;
            let _ = connection.shutdown().await;
            Some(String::from_utf8(asked).unwrap())
        });
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(url)
            .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
            .retry_config(RetryConfig::disabled())
            .http_client(http)
            .build();
        let listed = aws_sdk_dynamodb::Client::from_conf(config).list_tables().send().await;
        let listed = listed.map(|listed| listed.table_names().to_vec());
        (listed.map_err(|error| DisplayErrorContext(error).to_string()), serving.await.unwrap())
    }

    #[test]
    fn the_roots_are_the_five_that_amazon_publishes() {
        let found = CertificateDer::pem_slice_iter(AMAZON_ROOTS.as_bytes())
            .map(|certificate| hex::encode(Sha256::digest(certificate.unwrap())));
        assert_eq!(found.collect::<Vec<_>>(), PUBLISHED);
    }

    #[tokio::test]
    async fn whom_no_root_of_amazons_vouches_for_is_told_nothing() {
        let (listed, told) = list_tables(&Authority::make("somebody"), https_client()).await;
        let error = listed.unwrap_err();
        assert!(error.contains("UnknownIssuer"), "{error}");
        assert_eq!(told, None);
    }

    #[tokio::test]
    async fn whom_a_root_vouches_for_is_called_over_tls() {
        let authority = Authority::make("one of the roots");
        let trusted = amazon().with_pem_certificate(authority.cert());
        let (listed, told) = list_tables(&authority, client(trusted)).await;
        assert_eq!(listed, Ok(vec!["one".to_owned()]));
        assert!(told.unwrap().contains("DynamoDB_20120810.ListTables"));
    }
}

//! The way into a machine: TLS to the program that runs as its main process, whose key is known before anything is sent.
//! See `theazo_guest_protocol::machine` for what is said.

use crate::frame::Frame;
use crate::intake::{Intake, LONGEST_MESSAGE};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version};
use sha2::{Digest, Sha256};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use theazo_guest_protocol::machine::{ADMITTED, ALIVE, ANSWER, FINGERPRINT, MAX_PIECE, PIECE, REFUSED, TOKEN};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long connecting, handshake and admission may take.
const OPEN_WITHIN: Duration = Duration::from_secs(8);
/// How long sending may take that makes no progress known to us.
const SEND_WITHIN: Duration = Duration::from_secs(60);
/// How long without a word a machine is taken for lost: it says that it is alive more often.
const SILENCE: Duration = Duration::from_secs(50);

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChannelFault {
    /// No machine with that key is there. Nothing was sent.
    Closed,
    /// It is the machine, and it does not take the token. The request was not sent.
    Refused,
    /// The connection broke after the request was sent, or while it was.
    Broken,
    /// The answer did not come in time.
    Late,
}

/// Sends a request and takes its answer. When this is dropped earlier, the machine ends what it has started.
pub(super) async fn converse(
    address: SocketAddr,
    fingerprint: [u8; FINGERPRINT],
    token: &[u8; TOKEN],
    frame: &Frame,
    limit: Duration,
    mut intake: Intake,
) -> Result<Intake, ChannelFault> {
    let opened = tokio::time::timeout(OPEN_WITHIN, open(address, fingerprint, token)).await;
    let mut stream = opened.unwrap_or(Err(ChannelFault::Closed))?;
    let exchange = async {
        let sent = tokio::time::timeout(SEND_WITHIN, send(&mut stream, frame.bytes())).await;
        sent.map_err(|_| ChannelFault::Late)?.map_err(|_| ChannelFault::Broken)?;
        while let Some(piece) = next_piece(&mut stream).await? {
            intake.take(&piece).map_err(|_| ChannelFault::Broken)?;
        }
        let mut answer = Vec::new();
        // Only a farewell says that this is all: without one this is an error.
        let mut rest = (&mut stream).take(LONGEST_MESSAGE as u64 + 1);
        let taken = tokio::time::timeout(SEND_WITHIN, rest.read_to_end(&mut answer)).await;
        taken.map_err(|_| ChannelFault::Late)?.map_err(|_| ChannelFault::Broken)?;
        intake.take(&answer).map_err(|_| ChannelFault::Broken)?;
        Ok(intake)
    };
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(ChannelFault::Late))
}

/// What the guest says before its answer; nothing more once the answer follows.
async fn next_piece(stream: &mut TlsStream<TcpStream>) -> Result<Option<Vec<u8>>, ChannelFault> {
    let broken = |_| ChannelFault::Broken;
    loop {
        let said = tokio::time::timeout(SILENCE, stream.read_u8()).await;
        match said.map_err(|_| ChannelFault::Broken)?.map_err(broken)? {
            ALIVE => {}
            ANSWER => return Ok(None),
            PIECE => break,
            _ => return Err(ChannelFault::Broken),
        }
    }
    let piece = async {
        let length = stream.read_u32().await.map_err(broken)? as usize;
        if length > MAX_PIECE {
            return Err(ChannelFault::Broken);
        }
        let mut piece = vec![0; length];
        stream.read_exact(&mut piece).await.map_err(broken)?;
        Ok(Some(piece))
    };
    tokio::time::timeout(SILENCE, piece).await.unwrap_or(Err(ChannelFault::Broken))
}

async fn send(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn open(
    address: SocketAddr,
    fingerprint: [u8; FINGERPRINT],
    token: &[u8; TOKEN],
) -> Result<TlsStream<TcpStream>, ChannelFault> {
    let closed = |_: io::Error| ChannelFault::Closed;
    let config = client(fingerprint).map_err(|_| ChannelFault::Closed)?;
    let stream = TcpStream::connect(address).await.map_err(closed)?;
    stream.set_nodelay(true).map_err(closed)?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(closed)?;
    send(&mut stream, token).await.map_err(closed)?;
    match stream.read_u8().await.map_err(closed)? {
        ADMITTED => Ok(stream),
        REFUSED => Err(ChannelFault::Refused),
        _ => Err(ChannelFault::Closed),
    }
}

fn client(fingerprint: [u8; FINGERPRINT]) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Pinned { fingerprint, provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth())
}

/// Takes the one key that the machine's owner was told of, and that key's signatures.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; FINGERPRINT],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found: [u8; FINGERPRINT] = Sha256::digest(key).into();
        if found == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::Ed25519KeyPair;
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::server::AlwaysResolvesServerRawPublicKeys;
    use rustls::sign::CertifiedKey;
    use theazo_guest_protocol::{Request, Response, write_message};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_rustls::{TlsAcceptor, server};

    const HELD: [u8; TOKEN] = [7; TOKEN];

    /// A server with a key of its own that takes one connection, and what came of that.
    async fn serve<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        attend: impl FnOnce(io::Result<server::TlsStream<TcpStream>>) -> F + Send + 'static,
    ) -> (SocketAddr, [u8; FINGERPRINT], JoinHandle<T>) {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_ref()));
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let public = key.public_key().unwrap().to_vec();
        let fingerprint = Sha256::digest(&public).into();
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            attend(TlsAcceptor::from(Arc::new(config)).accept(stream).await).await
        });
        (address, fingerprint, serving)
    }

    async fn ask(address: SocketAddr, fingerprint: [u8; FINGERPRINT]) -> Result<Vec<u8>, ChannelFault> {
        let frame = Frame::new(super::super::KIND, &Request::KillAll, &[]).unwrap();
        let answer = converse(address, fingerprint, &HELD, &frame, Duration::from_secs(20), Intake::default()).await?;
        Ok(answer.finish().expect("an answer").1.to_vec())
    }

    /// An answer as a guest gives it.
    fn answer(content: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        let size = content.len() as u64;
        write_message(&mut wire, &Response::File { size, payload: content.len() }, &[content]).unwrap();
        wire
    }

    async fn read(stream: &mut server::TlsStream<TcpStream>, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_request_is_sent_after_the_token_was_taken_and_its_answer_comes_back_whole() {
        let (address, fingerprint, serving) = serve(|stream| async {
            let mut stream = stream.unwrap();
            assert_eq!(read(&mut stream, TOKEN).await, HELD);
            stream.write_all(&[ADMITTED]).await.unwrap();
            let request = read(&mut stream, 4).await;
            stream.write_all(&[ALIVE, ALIVE, ANSWER]).await.unwrap();
            stream.write_all(&answer(b"the answer")).await.unwrap();
            stream.shutdown().await.unwrap();
            request
        })
        .await;
        assert_eq!(ask(address, fingerprint).await.unwrap(), b"the answer");
        assert_eq!(serving.await.unwrap()[..3], [0, 0, 0], "a frame begins with its header's length");
    }

    #[tokio::test]
    async fn what_the_guest_says_before_its_answer_comes_in_pieces_and_one_that_is_too_long_is_none() {
        for (length, expected) in [(5, Ok(b"the answer".to_vec())), (u32::MAX, Err(ChannelFault::Broken))] {
            let (address, fingerprint, serving) = serve(move |stream| async move {
                let mut stream = stream.unwrap();
                read(&mut stream, TOKEN).await;
                stream.write_all(&[ADMITTED, ALIVE, PIECE]).await.unwrap();
                stream.write_all(&u32::to_be_bytes(length)).await.unwrap();
                let answer = answer(b"the answer");
                let (first, rest) = answer.split_at(5);
                stream.write_all(&[first, &[ALIVE, ANSWER], rest].concat()).await.unwrap();
                let _ = stream.shutdown().await;
            })
            .await;
            assert_eq!(ask(address, fingerprint).await, expected, "{length}");
            serving.await.unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_has_another_key_is_sent_neither_token_nor_request() {
        let (address, _, serving) = serve(|stream| async {
            match stream {
                Err(_) => Vec::new(),
                Ok(mut stream) => {
                    let mut read = Vec::new();
                    let _ = stream.read_to_end(&mut read).await;
                    read
                }
            }
        })
        .await;
        assert_eq!(ask(address, [1; FINGERPRINT]).await, Err(ChannelFault::Closed));
        assert_eq!(serving.await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_refused_token_is_told_apart_and_nothing_follows_it() {
        let (address, fingerprint, serving) = serve(|stream| async {
            let mut stream = stream.unwrap();
            read(&mut stream, TOKEN).await;
            stream.write_all(&[REFUSED]).await.unwrap();
            stream.flush().await.unwrap();
            let mut more = Vec::new();
            let _ = stream.read_to_end(&mut more).await;
            more
        })
        .await;
        assert_eq!(ask(address, fingerprint).await, Err(ChannelFault::Refused));
        assert_eq!(serving.await.unwrap(), b"");
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_none() {
        let (address, fingerprint, serving) = serve(|stream| async {
            let mut stream = stream.unwrap();
            read(&mut stream, TOKEN).await;
            stream.write_all(&[ADMITTED, ANSWER]).await.unwrap();
            stream.write_all(b"half of").await.unwrap();
            stream.flush().await.unwrap();
            // Without a farewell.
            drop(stream.into_inner());
        })
        .await;
        assert_eq!(ask(address, fingerprint).await, Err(ChannelFault::Broken));
        serving.await.unwrap();
    }
}

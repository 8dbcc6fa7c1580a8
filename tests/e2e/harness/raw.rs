//! Requests that a well-behaved client would not send, byte by byte; and short forms for what refusals say.

use super::{Answer, check_query};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends one request over a connection of its own. Nothing of `target` is normalised, and `headers` are whole lines.
pub async fn send_raw(
    base: &str,
    method: &str,
    target: &str,
    key: Option<&str>,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let authority = base.strip_prefix("http://").unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n");
    if let Some(key) = key {
        head += &format!("authorization: Bearer {key}\r\n");
    }
    if !headers.iter().any(|line| line.starts_with("transfer-encoding")) {
        head += &format!("content-length: {}\r\n", body.len());
    }
    for line in headers {
        head += &format!("{line}\r\n");
    }
    head += "\r\n";
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let answer = parse(&String::from_utf8(bytes).unwrap());
    check_query(method, target, answer.status, &answer.text);
    answer
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer { status: status.unwrap_or_else(|| panic!("no status: {head}")), headers, text: body.to_owned() }
}

impl Answer {
    /// Fails unless this refuses the request as malformed and names that field.
    #[track_caller]
    pub fn expect_invalid(self, field: &str) {
        let error = self.expect_error(400, "invalid_request");
        assert_eq!(error["details"]["field"], field, "{error}");
    }

    /// Fails unless this refuses the request because that feature is not built.
    #[track_caller]
    pub fn expect_not_built(self, feature: &str) {
        let error = self.expect_error(422, "unprocessable_entity");
        assert_eq!(error["details"]["feature"], feature, "{error}");
    }
}

//! What API Gateway makes of a request, and of a function's answer.

use super::Outcome;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A request as it comes from the network.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The HTTP method.
    pub method: String,
    /// The path as it was sent, percent-encoded, without the query.
    pub path: String,
    /// The query as it was sent.
    pub query: String,
    /// Headers; a name may come more than once.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The caller's address.
    pub source_ip: String,
}

/// A response as the caller gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The HTTP status.
    pub status: u16,
    /// Headers, names in lowercase.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
}

impl Asked {
    fn pairs(&self) -> Vec<(String, String)> {
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (decode(n), decode(v))).collect()
    }

    /// The body as the events have it: text as it is, anything else in base64. With `binary` all of it is base64, as
    /// where the API declares its media types to be binary.
    fn body(&self, binary: bool) -> (Value, bool) {
        match std::str::from_utf8(&self.body) {
            _ if self.body.is_empty() => (Value::Null, false),
            Ok(text) if !binary => (json!(text), false),
            _ => (json!(STANDARD.encode(&self.body)), true),
        }
    }

    /// The event of a REST API's proxy integration (payload 1.0): headers and query both as the last value of each name
    /// and as all of them.
    /// <https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html>
    pub fn rest_event(&self, resource: &str, binary: bool) -> Value {
        let (one_header, all_headers) = both(&self.headers);
        let (one_query, all_query) = both(&self.pairs());
        let (body, encoded) = self.body(binary);
        json!({
            "resource": resource,
            "path": self.path,
            "httpMethod": self.method,
            "headers": one_header,
            "multiValueHeaders": all_headers,
            "queryStringParameters": one_query,
            "multiValueQueryStringParameters": all_query,
            "pathParameters": null,
            "stageVariables": null,
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "local",
                "domainName": "local.execute-api.us-east-1.amazonaws.com",
                "httpMethod": self.method,
                "identity": { "sourceIp": self.source_ip, "userAgent": "local" },
                "path": format!("/live{}", self.path),
                "protocol": "HTTP/1.1",
                "requestId": "00000000-0000-4000-8000-000000000000",
                "requestTimeEpoch": 1_700_000_000_000_u64,
                "resourceId": "local",
                "resourcePath": resource,
                "stage": "live",
            },
            "body": body,
            "isBase64Encoded": encoded,
        })
    }

    /// The event of an HTTP API (payload 2.0): headers of one name joined by commas, the query as it was sent.
    /// <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>
    pub fn http_event(&self, route: &str, binary: bool) -> Value {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &self.headers {
            headers
                .entry(name.to_lowercase())
                .and_modify(|joined| *joined = format!("{joined},{value}"))
                .or_insert_with(|| value.clone());
        }
        let (body, encoded) = self.body(binary);
        json!({
            "version": "2.0",
            "routeKey": route,
            "rawPath": self.path,
            "rawQueryString": self.query,
            "headers": headers,
            "requestContext": {
                "accountId": "000000000000",
                "apiId": "local",
                "domainName": "local.execute-api.us-east-1.amazonaws.com",
                "domainPrefix": "local",
                "http": {
                    "method": self.method,
                    "path": self.path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": self.source_ip,
                    "userAgent": "local",
                },
                "requestId": "local",
                "routeKey": route,
                "stage": "$default",
                "time": "12/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_583_348_638_390_u64,
            },
            "body": body,
            "isBase64Encoded": encoded,
        })
    }
}

/// The last value of each name, and all of each.
fn both(pairs: &[(String, String)]) -> (Value, Value) {
    let mut all: Map<String, Value> = Map::new();
    for (name, value) in pairs {
        if let Value::Array(values) = all.entry(name.clone()).or_insert_with(|| json!([])) {
            values.push(json!(value));
        }
    }
    let last = all.iter().map(|(name, values)| {
        let last = values.as_array().and_then(|values| values.last()).cloned();
        (name.clone(), last.unwrap_or_default())
    });
    (Value::Object(last.collect()), Value::Object(all))
}

/// What a caller gets of a function's answer; nothing if it is none that the gateway takes, which then answers 502.
pub fn read(outcome: &Outcome) -> Option<Got> {
    let Outcome::Answered { body, streamed, .. } = outcome else { return None };
    let (head, rest) = if *streamed {
        let end = body.windows(8).position(|bytes| bytes == [0; 8])?;
        (serde_json::from_slice::<Value>(body.get(..end)?).ok()?, Some(body.slice(end + 8..)))
    } else {
        (serde_json::from_slice(body).ok()?, None)
    };
    let status = head["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok())?;
    let mut headers = BTreeMap::new();
    for (name, value) in head["headers"].as_object().into_iter().flatten() {
        headers.insert(name.to_lowercase(), value.as_str()?.to_owned());
    }
    for (name, values) in head["multiValueHeaders"].as_object().into_iter().flatten() {
        let values: Option<Vec<_>> = values.as_array()?.iter().map(Value::as_str).collect();
        headers.insert(name.to_lowercase(), values?.join(", "));
    }
    let body = match rest {
        Some(rest) => rest,
        None => {
            let text = head["body"].as_str().unwrap_or_default();
            if head["isBase64Encoded"] == true { STANDARD.decode(text).ok()?.into() } else { text.to_owned().into() }
        }
    };
    Some(Got { status, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(body: impl Into<Bytes>, streamed: bool) -> Outcome {
        Outcome::Answered { body: body.into(), streamed, pieces: 1 }
    }

    #[test]
    fn an_event_has_every_value_of_a_name_and_says_how_its_body_is_written() {
        let headers = [("X-A", "1"), ("X-A", "2")].map(|(name, value)| (name.into(), value.into())).to_vec();
        let asked = Asked {
            method: "POST".into(),
            path: "/v1/a%2Fb".into(),
            query: "q=1&q=%C3%A9&e".into(),
            headers,
            body: vec![0xff],
            source_ip: "192.0.2.1".into(),
        };
        let rest = asked.rest_event("/v1/{x}", false);
        assert_eq!(
            (&rest["headers"], &rest["multiValueHeaders"]),
            (&json!({ "X-A": "2" }), &json!({ "X-A": ["1", "2"] }))
        );
        assert_eq!(rest["multiValueQueryStringParameters"], json!({ "q": ["1", "\u{e9}"], "e": [""] }));
        assert_eq!(
            (&rest["path"], &rest["body"], &rest["isBase64Encoded"]),
            (&json!("/v1/a%2Fb"), &json!("/w=="), &json!(true))
        );
        let http = asked.http_event("POST /v1/{x}", false);
        assert_eq!((&http["headers"], &http["rawQueryString"]), (&json!({ "x-a": "1,2" }), &json!("q=1&q=%C3%A9&e")));
        let text = Asked { body: b"{}".to_vec(), ..asked };
        assert_eq!(
            (text.rest_event("/", false)["body"].clone(), text.body(true)),
            (json!("{}"), (json!("e30="), true))
        );
    }

    #[test]
    fn an_answer_is_read_whole_or_streamed_and_anything_else_is_none() {
        let whole = json!({ "statusCode": 200, "headers": { "A": "b" }, "multiValueHeaders": { "C": ["d", "e"] }, "body": "x" });
        let got = read(&answered(whole.to_string(), false)).unwrap();
        assert_eq!((got.status, &got.body[..], got.headers.len()), (200, &b"x"[..], 2));
        assert_eq!(got.headers["c"], "d, e");
        let mut stream = json!({ "statusCode": 201, "headers": {} }).to_string().into_bytes();
        stream.extend([0; 8]);
        stream.extend(b"data");
        assert_eq!(read(&answered(stream, true)).unwrap().body, Bytes::from_static(b"data"));
        for nonsense in ["", "[]", "{}", r#"{"statusCode": "200"}"#] {
            assert_eq!(read(&answered(nonsense, false)), None, "{nonsense}");
        }
        assert_eq!(read(&answered("{}", true)), None);
        assert_eq!(read(&Outcome::Failed(Bytes::new())), None);
    }
}

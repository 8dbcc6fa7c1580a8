//! The embedded table as any DynamoDB tool sees it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// All that the tables hold.
pub struct Scanned {
    /// The scan's answers as they came.
    pub pages: Vec<String>,
    /// The partition keys.
    pub partitions: BTreeSet<String>,
    /// The names and values of every attribute, binary ones decoded.
    pub decoded: Vec<u8>,
}

/// Scans every table at that address, a few rows at a time.
pub async fn scan_everything(url: &str) -> Scanned {
    let mut scanned = Scanned { pages: Vec::new(), partitions: BTreeSet::new(), decoded: Vec::new() };
    let tables = dynamodb(url, "ListTables", json!({})).await;
    for table in tables["TableNames"].as_array().unwrap() {
        let mut request = json!({ "TableName": table, "Limit": 7, "ConsistentRead": true });
        loop {
            let page = dynamodb(url, "Scan", request.clone()).await;
            for item in page["Items"].as_array().unwrap() {
                scanned.partitions.insert(item["pk"]["S"].as_str().unwrap_or_default().to_owned());
                for (name, attribute) in item.as_object().unwrap() {
                    scanned.decoded.extend_from_slice(name.as_bytes());
                    decode(attribute, &mut scanned.decoded);
                }
            }
            scanned.pages.push(page.to_string());
            match &page["LastEvaluatedKey"] {
                Value::Null => break,
                next => request["ExclusiveStartKey"] = next.clone(),
            }
        }
    }
    scanned
}

/// One operation of the table, behind everybody's back.
pub async fn dynamodb(url: &str, operation: &str, body: Value) -> Value {
    let request = reqwest::Client::new()
        .post(url)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
        .header("x-amz-date", "20300101T000000Z")
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=local/20300101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0",
        )
        .body(body.to_string());
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{operation} of {}: {text}", body["Key"]);
    serde_json::from_str(&text).unwrap()
}

/// An attribute's bytes, those of its parts with it.
fn decode(attribute: &Value, into: &mut Vec<u8>) {
    for (kind, value) in attribute.as_object().unwrap() {
        match (kind.as_str(), value) {
            ("B", Value::String(text)) => into.extend(STANDARD.decode(text).unwrap()),
            ("BS", Value::Array(parts)) => parts.iter().for_each(|part| decode(&json!({ "B": part }), into)),
            ("L", Value::Array(parts)) => parts.iter().for_each(|part| decode(part, into)),
            ("M", Value::Object(parts)) => parts.iter().for_each(|(name, part)| {
                into.extend_from_slice(name.as_bytes());
                decode(part, into);
            }),
            (_, Value::String(text)) => into.extend_from_slice(text.as_bytes()),
            (_, other) => into.extend_from_slice(other.to_string().as_bytes()),
        }
        into.push(0);
    }
}

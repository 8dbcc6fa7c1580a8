//! What went over the wire, as IAM would be asked about it.

use memchr::memmem;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use theazo_deploy::{Call, Service, key_pattern};

/// What IAM is asked about a request, by its `x-amz-target` and its body. Those of the key service must name what the roles'
/// conditions ask for: the purpose, and that deployment, or any where none is named.
pub(crate) fn calls(target: &str, body: &Value, deployment: Option<&str>) -> Vec<Call> {
    match target.split_once('.') {
        Some(("DynamoDB_20120810", operation)) => of_table(operation, body),
        Some(("TrentService", operation)) => of_key(operation, body, deployment),
        _ => panic!("{target} is of no service that is known here"),
    }
}

/// The requests on a connection: each one's `x-amz-target`, and its body.
pub(crate) fn requests(mut sent: &[u8]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    while let Some(end) = memmem::find(sent, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&sent[..end]).into_owned();
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let length: usize = field("content-length").unwrap().parse().unwrap();
        let body = &sent[end + 4..end + 4 + length];
        found.push((field("x-amz-target").unwrap(), serde_json::from_slice(body).unwrap()));
        sent = &sent[end + 4 + length..];
    }
    found
}

/// What IAM is asked about a request of the table: for a transaction, about each of its parts.
fn of_table(operation: &str, body: &Value) -> Vec<Call> {
    let one = |action: &str, table: &Value, pk: Option<&Value>, part: &Value| Call {
        // As all of our stacks call the two.
        service: if table.as_str().unwrap().ends_with("-ledger") { Service::Ledger } else { Service::Data },
        action: action.to_owned(),
        keys: pk.map(|pk| key_pattern(pk["S"].as_str().unwrap())),
        attributes: attributes(part),
    };
    let list = |value: &Value| value.as_array().unwrap().clone();
    match operation {
        "GetItem" | "UpdateItem" | "DeleteItem" => {
            vec![one(operation, &body["TableName"], Some(&body["Key"]["pk"]), body)]
        }
        "PutItem" => vec![one(operation, &body["TableName"], Some(&body["Item"]["pk"]), body)],
        "Query" => {
            let condition = body["KeyConditionExpression"].as_str().unwrap();
            assert!(condition.starts_with("pk = :pk"), "{condition}");
            vec![one(operation, &body["TableName"], Some(&body["ExpressionAttributeValues"][":pk"]), body)]
        }
        "Scan" => vec![one(operation, &body["TableName"], None, body)],
        "BatchGetItem" | "BatchWriteItem" => {
            let mut calls = Vec::new();
            for (table, asked) in body["RequestItems"].as_object().unwrap() {
                let table = json!(table);
                let asked = if operation == "BatchGetItem" { list(&asked["Keys"]) } else { list(asked) };
                for part in asked {
                    let places = [&part["pk"], &part["PutRequest"]["Item"]["pk"], &part["DeleteRequest"]["Key"]["pk"]];
                    let pk = places.into_iter().find(|pk| !pk.is_null()).unwrap();
                    calls.push(one(operation, &table, Some(pk), &part));
                }
            }
            calls
        }
        "TransactGetItems" | "TransactWriteItems" => {
            let mut calls = Vec::new();
            for part in list(&body["TransactItems"]) {
                let (kind, part) = part.as_object().unwrap().iter().next().unwrap();
                let action = if kind == "ConditionCheck" { "ConditionCheckItem".into() } else { format!("{kind}Item") };
                let key = if kind == "Put" { &part["Item"]["pk"] } else { &part["Key"]["pk"] };
                calls.push(one(&action, &part["TableName"], Some(key), part));
            }
            calls
        }
        other => panic!("{other} is not known here"),
    }
}

/// The attributes that a change names: those of its key, and those in what it sets and in its condition.
fn attributes(part: &Value) -> BTreeSet<String> {
    const WORDS: [&str; 11] = [
        "SET",
        "REMOVE",
        "ADD",
        "DELETE",
        "AND",
        "OR",
        "NOT",
        "BETWEEN",
        "attribute_exists",
        "attribute_not_exists",
        "if_not_exists",
    ];
    let mut names: BTreeSet<String> =
        part["Key"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    for expression in ["UpdateExpression", "ConditionExpression"] {
        let text = part[expression].as_str().unwrap_or_default();
        let words = text.split(|letter: char| !(letter.is_alphanumeric() || "_#:".contains(letter)));
        for word in words.filter(|word| !word.is_empty() && !word.starts_with(':') && !WORDS.contains(word)) {
            let name = part["ExpressionAttributeNames"][word].as_str().unwrap_or(word);
            assert!(!name.starts_with('#'), "{name} in {text}");
            names.insert(name.to_owned());
        }
    }
    names
}

fn of_key(operation: &str, body: &Value, deployment: Option<&str>) -> Vec<Call> {
    let is_bound = |context: &Value| {
        assert_eq!(context["theazo:purpose"], "root-key", "{operation}");
        let bound = context["theazo:deployment"].as_str();
        assert!(bound.is_some() && deployment.is_none_or(|known| bound == Some(known)), "{operation}: {context}");
    };
    let one = |action: &str| Call {
        service: Service::Kms,
        action: action.to_owned(),
        keys: None,
        attributes: BTreeSet::new(),
    };
    if operation == "ReEncrypt" {
        is_bound(&body["SourceEncryptionContext"]);
        is_bound(&body["DestinationEncryptionContext"]);
        return vec![one("ReEncryptFrom"), one("ReEncryptTo")];
    }
    is_bound(&body["EncryptionContext"]);
    vec![one(operation)]
}

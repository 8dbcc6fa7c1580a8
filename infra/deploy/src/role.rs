//! A function's role: what it may do, and nothing else.

use crate::permissions::{Permissions, Service};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The policy statements of a function, as YAML list items at that indentation: one for each action, with the keys that
/// this action was seen to name.
pub(crate) fn statements(permissions: &Permissions, function: &str, resource_name: &str, indent: usize) -> String {
    let mut out = String::new();
    for (service, resource) in [
        (Service::Data, table_arn("HasOtherTable", "DataTableName", "DataTable")),
        (Service::Ledger, table_arn("HasOtherLedger", "LedgerTableName", "LedgerTable")),
    ] {
        for (action, access) in permissions.of(function, service) {
            let sid = format!("{service:?}{action}");
            if !access.keys.is_empty() || access.attributes.is_empty() {
                table_statement(&mut out, &sid, action, &resource, &access.keys, None);
            }
            for (index, (keys, attributes)) in access.attributes.iter().enumerate() {
                let keys = BTreeSet::from([keys.clone()]);
                let sid = format!("{sid}Narrow{index}");
                table_statement(&mut out, &sid, action, &resource, &keys, Some(attributes));
            }
        }
    }
    for (action, _) in permissions.of(function, Service::Kms) {
        kms_statement(&mut out, action);
    }
    // The group's ARN ends with `:*`, its streams, whose names are the runtime's choice.
    out.push_str("- Sid: Log\n  Effect: Allow\n  Action: [logs:CreateLogStream, logs:PutLogEvents]\n");
    let _ = writeln!(out, "  Resource: !GetAtt {resource_name}Log.Arn");
    indented(&out, indent)
}

/// The ARN of the table that a parameter names, or of the stack's own.
fn table_arn(has_other: &str, parameter: &str, own: &str) -> String {
    let other = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/";
    format!("!If [{has_other}, !Sub '{other}${{{parameter}}}', !GetAtt {own}.Arn]")
}

fn table_statement(
    out: &mut String,
    sid: &str,
    action: &str,
    table_arn: &str,
    keys: &BTreeSet<String>,
    attributes: Option<&BTreeSet<String>>,
) {
    let _ = writeln!(out, "- Sid: {sid}\n  Effect: Allow\n  Action: dynamodb:{action}");
    let _ = writeln!(out, "  Resource: {table_arn}");
    if keys.is_empty() {
        return;
    }
    let quoted = |names: &BTreeSet<String>| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    // Of a request that names no key, `ForAllValues` says yes: it takes `Null` to refuse that one.
    let _ = writeln!(out, "  Condition:\n    'Null':\n      dynamodb:LeadingKeys: 'false'");
    let _ = writeln!(out, "    ForAllValues:StringLike:\n      dynamodb:LeadingKeys: [{}]", quoted(keys));
    if let Some(attributes) = attributes {
        let _ = writeln!(out, "      dynamodb:Attributes: [{}]", quoted(attributes));
    }
}

fn kms_statement(out: &mut String, action: &str) {
    let _ = writeln!(out, "- Sid: Kms{action}\n  Effect: Allow\n  Action: kms:{action}");
    out.push_str("  Resource: !GetAtt RootWrappingKey.Arn\n  Condition:\n    StringEquals:\n");
    out.push_str("      kms:EncryptionContext:theazo:purpose: root-key\n");
    out.push_str("      kms:EncryptionContext:theazo:deployment: !Ref Deployment\n");
}

pub(crate) fn indented(text: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    text.lines().fold(String::new(), |mut out, line| {
        if !line.is_empty() {
            out.push_str(&pad);
        }
        out.push_str(line);
        out.push('\n');
        out
    })
}

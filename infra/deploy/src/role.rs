//! A function's role: what it may do, and nothing else.

use crate::permissions::{Access, Permissions, Service};
use std::fmt::Write;

/// The policy statements of a function, as YAML list items at that indentation.
pub(crate) fn statements(permissions: &Permissions, function: &str, resource_name: &str, indent: usize) -> String {
    let mut out = String::new();
    for (service, resource) in [(Service::Data, "DataTable"), (Service::Ledger, "LedgerTable")] {
        for (kind, access) in permissions.of(function, service) {
            table_statement(&mut out, &format!("{service:?}{kind:?}"), access, resource);
        }
    }
    for (kind, access) in permissions.of(function, Service::Kms) {
        kms_statement(&mut out, &format!("Kms{kind:?}"), access);
    }
    // The group's ARN ends with `:*`, its streams, whose names are the runtime's choice.
    out.push_str("- Sid: Log\n  Effect: Allow\n  Action: [logs:CreateLogStream, logs:PutLogEvents]\n");
    let _ = writeln!(out, "  Resource: !GetAtt {resource_name}Log.Arn");
    indented(&out, indent)
}

fn table_statement(out: &mut String, sid: &str, access: &Access, table: &str) {
    let actions: Vec<String> = access.actions.iter().map(|action| format!("dynamodb:{action}")).collect();
    let _ = writeln!(out, "- Sid: {sid}\n  Effect: Allow\n  Action: [{}]", actions.join(", "));
    let _ = writeln!(out, "  Resource: !GetAtt {table}.Arn");
    if access.keys.is_empty() {
        return;
    }
    let keys: Vec<String> = access.keys.iter().map(|key| format!("'{key}'")).collect();
    // Of a request that names no key, `ForAllValues` says yes: it takes `Null` to refuse that one.
    let _ = writeln!(out, "  Condition:\n    'Null':\n      dynamodb:LeadingKeys: 'false'");
    let _ = writeln!(out, "    ForAllValues:StringLike:\n      dynamodb:LeadingKeys: [{}]", keys.join(", "));
}

fn kms_statement(out: &mut String, sid: &str, access: &Access) {
    let actions: Vec<String> = access.actions.iter().map(|action| format!("kms:{action}")).collect();
    let _ = writeln!(out, "- Sid: {sid}\n  Effect: Allow\n  Action: [{}]", actions.join(", "));
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

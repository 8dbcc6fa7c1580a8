//! `infra/template.yaml`: the frame, and between its parts each function's resources.

use crate::function::functions;
use crate::permissions::{Permissions, Service};
use crate::role::indented;
use sha2::{Digest, Sha256};

const HEAD: &str = include_str!("frame/head.yaml");
const TABLES: &str = include_str!("frame/tables.yaml");
const API: &str = include_str!("frame/api.yaml");
const ALARMS: &str = include_str!("frame/alarms.yaml");
const TAIL: &str = include_str!("frame/tail.yaml");

/// What the digest is called in the template's `Metadata`.
const DIGEST: &str = "TemplateDigest";
/// What the operator's role is called after the deployment, beside the functions' roles.
const OPERATOR: &str = "operator";

/// The whole template. It carries a digest of itself, by which a stack shows what it was made of: CloudFormation gives
/// a stack's template back in another form.
pub fn template(permissions: &Permissions) -> String {
    let body = body(permissions);
    let digest = hex::encode(Sha256::digest(&body));
    format!("{body}\nMetadata:\n  Theazo:\n    {DIGEST}: {digest}\n")
}

/// The digest that a template carries, as 64 hexadecimal digits.
pub fn digest_of(template: &str) -> Option<&str> {
    let rest = template.rsplit_once(DIGEST)?.1;
    let digest = rest.trim_start_matches(|letter: char| !letter.is_ascii_hexdigit()).get(..64)?;
    digest.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digest)
}

fn body(permissions: &Permissions) -> String {
    let mut out = HEAD.to_owned();
    for part in [&tables(permissions), "\n", API, "\n", &alarms()] {
        out.push_str(&indented(part, 2));
    }
    out.push_str("\n  # --- functions, each with a role of its own ");
    out.push_str(&"-".repeat(75));
    out.push('\n');
    for function in functions() {
        out.push_str(&indented(&function.resources(permissions), 2));
        out.push('\n');
    }
    out.push_str(TAIL);
    out
}

/// The frame's tables and key, whose policy names the roles that call it.
fn tables(permissions: &Permissions) -> String {
    let calls = |function: &str, wanted: &[&str]| {
        permissions.of(function, Service::Kms).any(|(action, _)| wanted.contains(&action))
    };
    let roles = |wanted: &[&str]| {
        let functions = functions().map(|function| function.name).filter(|function| calls(function, wanted));
        let roles = functions.chain([OPERATOR]).map(|name| {
            format!("- !Sub 'arn:${{AWS::Partition}}:iam::${{AWS::AccountId}}:role/${{Deployment}}_{name}'")
        });
        roles.collect::<Vec<_>>()
    };
    let tables = with_items(TABLES, "- @roles that decrypt@", &roles(&["Decrypt"]));
    with_items(
        &tables,
        "- @roles that wrap@",
        &roles(&["GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"]),
    )
}

/// The frame's alarms and dashboard, which shows a metric of each function in one picture.
fn alarms() -> String {
    let metrics = |metric: &str| {
        let mut names = functions().map(|function| format!("${{Deployment}}_{}", function.name));
        let first = names.next().unwrap_or_default();
        let first = format!("[\"AWS/Lambda\", \"{metric}\", \"FunctionName\", \"{first}\"]");
        // All before the last is as in the line above.
        let others = names.map(|name| format!("[\"...\", \"{name}\"]"));
        std::iter::once(first).chain(others).collect::<Vec<_>>().join(", ")
    };
    let mut alarms = ALARMS.to_owned();
    for metric in ["Errors", "Throttles"] {
        alarms = alarms.replace(&format!("@metrics of every function: {metric}@"), &metrics(metric));
    }
    alarms
}

/// A text in which those lines stand for one, as deep as it stands.
fn with_items(text: &str, mark: &str, items: &[String]) -> String {
    let mut out = String::new();
    for line in text.lines() {
        match line.strip_suffix(mark) {
            Some(indent) => items.iter().for_each(|item| out.extend([indent, item, "\n"])),
            None => out.extend([line, "\n"]),
        }
    }
    out
}

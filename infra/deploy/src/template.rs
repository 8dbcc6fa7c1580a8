//! `infra/template.yaml`: the frame, and between its parts each function's resources.

use crate::function::functions;
use crate::permissions::Permissions;
use crate::role::indented;

const HEAD: &str = include_str!("frame/head.yaml");
const TABLES: &str = include_str!("frame/tables.yaml");
const API: &str = include_str!("frame/api.yaml");
const ALARMS: &str = include_str!("frame/alarms.yaml");
const TAIL: &str = include_str!("frame/tail.yaml");

/// The whole template.
pub fn template(permissions: &Permissions) -> String {
    let mut out = HEAD.to_owned();
    for part in [TABLES, "\n", API, "\n", ALARMS] {
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

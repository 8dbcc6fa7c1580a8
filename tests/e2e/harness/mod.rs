//! What the tests share: a stack, platforms, and a plain HTTP client.

mod aged;
mod built;
mod captured;
mod client;
mod contract;
mod counted;
mod encodings;
mod engine;
mod events;
mod fail;
mod incoming;
mod kills;
mod lines;
mod own;
mod process;
mod raw;
mod roles;
mod shared;
mod table;
mod tap;

pub use aged::Aged;
pub use built::{bootstrap, built, has_bootstrap, is_release, workspace};
pub use captured::CapturedLog;
pub use client::{Answer, Client};
pub use contract::{UNHEARD_OF, check_query};
pub use counted::CountedListener;
pub use encodings::Canary;
pub use engine::{CommandLines, Events, commit_and_search, container_name, docker, engine_records, run_as_root};
pub use events::{EventStream, serve_deployment};
pub use fail::{end_agent, fail_agent};
pub use incoming::{incoming, incoming_bytes, incoming_once};
pub use kills::{Kills, random};
pub use lines::{Lines, own_deployment, own_machine_is_no_host, with_streams};
pub use own::OwnStack;
pub use process::{DevCommand, Process, collect, provider_of, temporary, wait_until};
pub use raw::send_raw;
pub use roles::{assert_roles_suffice, enforce_roles, may_call_services};
pub use shared::{
    E2B_KEY, E2bEmulator, FLY_ORGANIZATION, FLY_TOKEN, FlyEmulator, Platform, docker_engine, e2b_emulator,
    fly_emulator, has_firewall, left_on_engine, stack, start_e2b_emulator, start_fly_emulator,
};
pub use table::{dynamodb, scan_everything};
pub use tap::{Break, Tap, Wire};

use sha2::{Digest, Sha256};
use std::time::Duration;

/// When the gateway gives up on an answer that is no stream.
pub const GATEWAY_WAITS: Duration = Duration::from_secs(29);

/// A value that no other test uses and that cannot occur by accident.
pub fn make_canary(label: &str) -> String {
    format!("canary-{label}-{}", hex::encode(theazo_tenancy::make_random_bytes::<16>()))
}

/// SHA-256 as lowercase hexadecimal, as the programs in agents print it.
pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

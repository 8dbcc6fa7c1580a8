//! What the command says to the person at the terminal, and nothing of what it logs; and how that person ends it.

use std::io::Write;
use theazo_setup::Progress;

/// Writes a line to standard output. A closed terminal is nobody's error.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Resolves at Ctrl-C, or at a request to terminate.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// Shows set-up's steps as they happen.
pub struct TerminalProgress;

impl Progress for TerminalProgress {
    fn step(&self, text: &str) {
        say(&format!("    {text}"));
    }

    fn detail(&self, text: &str) {
        say(&format!("      {text}"));
    }
}

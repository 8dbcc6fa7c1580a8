//! What the command says to the person at the terminal, and nothing of what it logs.

use std::io::Write;
use theazo_setup::Progress;

/// Writes a line to standard output. A closed terminal is nobody's error.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
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

//! Answers: a table for people, JSON for programs, both on standard output. Everything else goes to standard error.

use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use zeroize::Zeroizing;

/// Options that say how answers look.
#[derive(Args)]
pub(crate) struct Output {
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
}

/// Something a command answers with. Its `Serialize` is the JSON.
pub(crate) trait Show: Serialize {
    /// The table's first line.
    const HEADER: &'static [&'static str];

    /// The table's other lines.
    fn rows(&self) -> Vec<Vec<&str>>;

    /// What the operator must know besides.
    fn note(&self) -> Option<&'static str> {
        None
    }
}

impl Output {
    /// Answers in JSON.
    #[cfg(test)]
    pub(crate) fn json() -> Self {
        Self { json: true }
    }

    /// Writes one line of an answer to people, as soon as it is known: whoever loses patience keeps what was found until
    /// then. Programs get all of them at once, by [`Output::whole`].
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(crate) fn line(&self, cells: &[&str], widths: &[usize]) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        write_line(&mut out, cells, widths)?;
        out.flush()
    }

    /// Writes an answer whose lines were written as they came.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(crate) fn whole(&self, answer: &impl Show) -> io::Result<()> {
        if self.json { self.show(answer) } else { Ok(()) }
    }

    /// Writes an answer.
    ///
    /// # Errors
    /// When standard output is closed or full.
    pub(crate) fn show(&self, answer: &impl Show) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, answer)?;
            writeln!(out)?;
        } else {
            write_table(&mut out, answer)?;
        }
        out.flush()?;
        if let Some(text) = answer.note() {
            note(text);
        }
        Ok(())
    }
}

/// Tells the operator something that is not the answer. A closed standard error is nobody's fault.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn write_table<T: Show>(out: &mut impl Write, answer: &T) -> io::Result<()> {
    let rows = answer.rows();
    let lines = || std::iter::once(T::HEADER).chain(rows.iter().map(Vec::as_slice));
    let mut widths = vec![0; T::HEADER.len()];
    for line in lines() {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    lines().try_for_each(|line| write_line(out, line, &widths))
}

fn write_line(out: &mut impl Write, line: &[&str], widths: &[usize]) -> io::Result<()> {
    for (index, (cell, width)) in line.iter().zip(widths).enumerate() {
        let cell = Zeroizing::new(cell.chars().map(printable).collect::<String>());
        let cell = cell.as_str();
        if index + 1 == line.len() { writeln!(out, "{cell}")? } else { write!(out, "{cell:<width$}  ")? }
    }
    Ok(())
}

/// What another tool wrote into the table must not steer the operator's terminal.
fn printable(letter: char) -> char {
    if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Two(&'static str, &'static str);

    impl Show for Two {
        const HEADER: &'static [&'static str] = &["A", "B"];

        fn rows(&self) -> Vec<Vec<&str>> {
            vec![vec![self.0, "1"], vec![self.1, "2"]]
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell_and_hold_no_control_characters() {
        let mut out = Vec::new();
        write_table(&mut out, &Two("\u{fc}ber", "\u{1b}[31m")).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A      B\n\u{fc}ber   1\n\u{fffd}[31m  2\n");
    }
}

//! The process's logging. Libraries that would print bodies are capped here, in code, whatever the configuration says.

use std::io::Write;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Crates whose finer levels print requests and answers: bollard prints exec bodies at debug, the SDK and the HTTP
/// stack print theirs at trace.
const CAPPED: &[&str] =
    &["bollard", "aws_", "hyper", "h2", "rustls", "reqwest", "dynoxide", "axum", "tower", "lambda_"];

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object a line, for machines.
    Json,
    /// For a terminal.
    Text,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging is set up already")]
pub struct LoggingError;

/// The target of events whose `line` is a line of the log by itself, as it is: figures that a machine reads. Where lines
/// are for a terminal there are none.
pub const FIGURES: &str = "theazo::figures";

/// Writes such lines.
struct Figures<W>(W);

impl<S: Subscriber, W: for<'a> MakeWriter<'a> + 'static> Layer<S> for Figures<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        line.0.push('\n');
        // In one piece, so that no other line comes between. Nobody could be told of a log that cannot be written.
        let _ = self.0.make_writer_for(event.metadata()).write_all(line.0.as_bytes());
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "line" {
            self.0 = format!("{value:?}");
        }
    }
}

fn is_figures(metadata: &Metadata<'_>) -> bool {
    metadata.target() == FIGURES
}

fn is_allowed(metadata: &Metadata<'_>) -> bool {
    let capped = CAPPED.iter().any(|name| metadata.target().starts_with(name));
    !is_figures(metadata) && (!capped || *metadata.level() <= LevelFilter::INFO)
}

/// Sets the process's logging up: to standard error, by `RUST_LOG` (default `info`), with the caps above. Of a panic only
/// where it was is written: its message may quote anything.
///
/// # Errors
/// [`LoggingError`] when it was set up before.
pub fn init_logging(format: LogFormat) -> Result<(), LoggingError> {
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    make_subscriber(format, wanted, std::io::stderr).try_init().map_err(|_| LoggingError)?;
    std::panic::set_hook(Box::new(|panic| match panic.location() {
        Some(place) => tracing::error!(file = place.file(), line = place.line(), "a panic"),
        None => tracing::error!("a panic"),
    }));
    Ok(())
}

/// What [`init_logging`] sets up, for whoever wants the lines elsewhere. `wanted` chooses among what the caps allow.
pub fn make_subscriber<W>(format: LogFormat, wanted: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let figures = (format == LogFormat::Json).then(|| Figures(writer.clone()).with_filter(filter_fn(is_figures)));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter_fn(is_allowed))).with(figures).with(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;
    use std::sync::Arc;

    /// A process that is this test, and is to panic.
    const PANICS: &str = "THEAZO_TEST_PANICS";

    #[test]
    fn of_a_panic_the_log_has_where_it_was_as_json_and_not_its_message() {
        if std::env::var_os(PANICS).is_some() {
            init_logging(LogFormat::Json).unwrap();
            let _ = std::panic::catch_unwind(|| panic!("a value {}", "s3cret"));
            return;
        }
        let name = "logging::tests::of_a_panic_the_log_has_where_it_was_as_json_and_not_its_message";
        let mut itself = Command::new(std::env::current_exe().unwrap());
        itself.args(["--exact", name, "--nocapture"]).env(PANICS, "1").env("RUST_LOG", "info");
        let output = itself.output().unwrap();
        assert!(output.status.success());
        let log = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert_eq!((&lines[0]["message"], &lines[0]["level"]), (&"a panic".into(), &"ERROR".into()));
        assert!(lines[0]["file"].as_str().unwrap().ends_with("logging.rs") && lines[0]["line"].is_u64(), "{log}");
        assert!(!log.contains("s3cret") && !log.contains("a value"), "{log}");
    }

    #[test]
    fn whoever_wants_everything_gets_our_finest_lines_and_none_of_the_crates_that_would_print_bodies() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let subscriber = make_subscriber(LogFormat::Json, EnvFilter::new("trace"), Arc::new(writer));
        let mut capped = 0;
        macro_rules! tell {
            ($($target:literal),+) => {
                $(
                    assert!(CAPPED.iter().any(|name| $target.starts_with(name)), $target);
                    tracing::debug!(target: $target, "a body");
                    tracing::trace!(target: $target, "a body");
                    tracing::info!(target: $target, "a word");
                    capped += 1;
                )+
            };
        }
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!("ours");
            tell!(
                "bollard::docker",
                "aws_smithy_runtime",
                "hyper::proto",
                "h2::codec",
                "rustls::client",
                "reqwest::connect",
                "dynoxide",
                "axum::serve",
                "tower::buffer",
                "lambda_runtime"
            );
        });
        assert_eq!(capped, CAPPED.len(), "each of them is tried");
        // Its last writer went with the subscriber.
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        assert!(log.contains("\"TRACE\"") && log.contains("ours"), "{log}");
        assert!(!log.contains("a body"), "{log}");
        assert_eq!(log.matches("a word").count(), capped, "{log}");
    }
}

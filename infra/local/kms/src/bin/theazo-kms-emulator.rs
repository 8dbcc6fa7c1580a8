//! The emulator as a process: `theazo-kms-emulator --listen 127.0.0.1:0 --file kms.json`.
//!
//! Writes `listening on ADDRESS` to standard output once it accepts connections, and ends on SIGINT or SIGTERM.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use theazo_kms_emulator::Emulator;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: theazo-kms-emulator --listen ADDRESS:PORT --file PATH";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do about a standard error that is closed.
            let _ = writeln!(io::stderr(), "theazo-kms-emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let (address, file) = arguments()?;
    let emulator = Emulator::open(&file)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = TcpListener::bind(&address).await?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    emulator.serve(listener, shutdown).await?;
    Ok(())
}

fn arguments() -> Result<(String, PathBuf), Box<dyn Error>> {
    let (mut address, mut file) = (None, None);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match name.to_str() {
            Some("--listen") => address = Some(value.into_string().map_err(|_| USAGE)?),
            Some("--file") => file = Some(PathBuf::from(value)),
            _ => return Err(USAGE.into()),
        }
    }
    Ok((address.ok_or(USAGE)?, file.ok_or(USAGE)?))
}

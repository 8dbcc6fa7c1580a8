//! `cargo dev`: the local stack, and what shows it off.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use theazo_functions::deployment::{DockerEngine, rate_limits_from_env};
use theazo_http::{LogFormat, init_logging};
use theazo_local::terminal::{TerminalProgress, interrupted, say};
use theazo_local::{Stack, StackConfig, bench, quickstart};
use theazo_setup::{SetupError, ensure_agent_image, ensure_engine, ensure_firewall};

/// Theazo on this machine.
#[derive(Parser)]
#[command(name = "cargo dev", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Sets everything up, runs the main job through plain HTTP, and explains each step.
    Quickstart,
    /// Measures Theazo's own work beside a baseline, in one run. For figures that mean something: `cargo dev-release bench`.
    #[command(subcommand)]
    Bench(Bench),
    /// Writes the API's own description anew, which is checked in as infra/openapi.json.
    Openapi,
}

#[derive(Subcommand)]
enum Bench {
    /// Sealing, opening, a session's secrets as an agent gets them, and masking.
    Vault {
        /// Also write the figures to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

/// Without a subcommand: the local stack in the foreground.
#[derive(Args)]
struct RunArgs {
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Where the embedded DynamoDB-compatible table listens.
    #[arg(long, default_value = "127.0.0.1:9001")]
    dynamodb_listen: SocketAddr,
    /// Where all state is kept.
    #[arg(long, default_value = ".theazo")]
    data_dir: PathBuf,
    /// Run without a Docker engine; agents cannot be made then.
    #[arg(long)]
    without_docker: bool,
    /// Run although agents could reach this machine's own ports, private networks and the cloud's metadata address.
    #[arg(long)]
    unprotected: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Quickstart) => quickstart::run().await,
        Some(Command::Bench(Bench::Vault { json })) => measure_vault(json).await,
        Some(Command::Openapi) => write_openapi(),
        None => serve(cli.run).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nerror: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn measure_vault(json: Option<PathBuf>) -> Result<(), Failure> {
    bench::vault::run(bench::vault::Effort::FULL).await?.publish(json.as_deref())
}

fn write_openapi() -> Result<(), Failure> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
    Ok(std::fs::write(path, theazo_openapi::document_text())?)
}

async fn serve(args: RunArgs) -> Result<(), Failure> {
    init_logging(LogFormat::Text)?;
    let docker = if args.without_docker {
        None
    } else {
        say("Setting up");
        let endpoint = ensure_engine(&TerminalProgress).await?;
        let image = ensure_agent_image(&endpoint, &TerminalProgress).await?;
        say(&format!("    a Docker engine answers, and has the agent image {image}"));
        match ensure_firewall(&endpoint, &image, &TerminalProgress).await {
            Ok(_) => say("    a firewall keeps agents from this machine, private networks and the metadata address"),
            Err(error @ SetupError::Unprotected { .. }) if args.unprotected => {
                say(&format!("    unprotected: {error}"))
            }
            Err(error @ SetupError::Unprotected { .. }) => {
                return Err(format!("{error}. Or start with --unprotected, for agents that you trust").into());
            }
            Err(error) => return Err(error.into()),
        }
        Some(DockerEngine { endpoint, image })
    };
    let config = StackConfig {
        data_dir: args.data_dir.clone(),
        listen: args.listen,
        dynamodb_listen: args.dynamodb_listen,
        docker,
        key_cache: None,
        rate_limits: rate_limits_from_env()?,
    };
    let stack = Stack::start(config).await?;
    let settled = stack.settled();
    if settled != Default::default() {
        say(&format!("Finished what an earlier run had left: {settled:?}"));
    }
    welcome(&stack, &args);
    interrupted().await;
    say("\nStopping");
    stack.stop().await;
    Ok(())
}

fn welcome(stack: &Stack, args: &RunArgs) {
    let key_file = stack.data_dir().file("api-key");
    let key_file = std::path::absolute(&key_file).unwrap_or(key_file);
    let key = key_file.display();
    let base = stack.base_url();
    say("\nTheazo runs");
    say(&format!("    API       {base}/v1"));
    say(&format!("    table     {}  (any DynamoDB tool; table `theazo`)", stack.dynamodb_url()));
    say(&format!("    live key  {key}"));
    say(&format!("    test key  {}", stack.data_dir().file("test-api-key").display()));
    say(&format!("    state     {}", args.data_dir.display()));
    say("\nA first call:");
    // A folder's name may hold a quote itself; the line must still work when pasted.
    let quoted = key_file.to_string_lossy().replace('\'', r"'\''");
    say(&format!("    curl -s {base}/v1/whoami -H \"Authorization: Bearer $(cat '{quoted}')\""));
    say("\nCtrl-C stops it; starting again goes on with the same data.");
}

//! `cargo dev`: the local stack, and what shows it off.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use theazo_functions::deployment::{DockerEngine, e2b_from_env, fly_from_env, rate_limits_from_env};
use theazo_http::{LogFormat, init_logging};
use theazo_local::quickstart::{self, Through};
use theazo_local::terminal::{TerminalProgress, interrupted, say};
use theazo_local::{On, Stack, StackConfig, Throwaway, bench};
use theazo_providers::fly::FlyEndpoints;
use theazo_setup::{SetupError, ensure_agent_image, ensure_engine, ensure_firewall, machine_programs};

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
    Quickstart {
        /// Where its agents run: on this machine's Docker engine, or on an emulator of E2B or of Fly.
        #[arg(long, default_value = "docker")]
        provider: On,
    },
    /// The same through each endpoint's own Lambda binary, under `cargo lambda watch`.
    Lambda,
    /// Brings what is made from the route table up to date: the deployment template and the router of `cargo lambda watch`.
    Template,
    /// Measures Theazo's own work beside a baseline, in one run. For figures that mean something: `cargo dev-release bench`.
    #[command(subcommand)]
    Bench(Bench),
    /// Writes the API's own description anew, which is checked in as infra/openapi.json.
    Openapi,
    /// Runs an emulator by itself, so that anyone's client can be pointed at it.
    #[command(subcommand)]
    Emulator(EmulatorOf),
}

#[derive(Subcommand)]
enum EmulatorOf {
    /// E2B, with processes of this machine behind it: for code that you trust.
    E2b {
        /// Where it listens. Whoever reaches this runs programs on this machine.
        #[arg(long, default_value = "127.0.0.1:9049")]
        listen: SocketAddr,
    },
    /// Fly's Machines API, with processes of this machine behind it: for code that you trust. Needs root.
    Fly {
        /// Where it listens. Whoever reaches this runs programs on this machine.
        #[arg(long, default_value = "127.0.0.1:9048")]
        listen: SocketAddr,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Sealing, opening, a session's secrets as an agent gets them, and masking.
    Vault {
        /// Samples of sealing and opening, and fewer of what takes longer.
        #[arg(long, default_value_t = bench::vault::Effort::FULL.samples)]
        samples: usize,
        /// Also write the figures to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What an agent's life takes through the API, beside what its provider takes by itself.
    Agents {
        /// Where the agents run: on this machine's Docker engine, or on an emulator of E2B or of Fly.
        #[arg(long, default_value = "docker")]
        provider: On,
        /// How many are made.
        #[arg(long, default_value_t = bench::agents::Effort::FULL.agents)]
        agents: usize,
        /// Also write the figures, and all samples, to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What each endpoint takes, with one caller and with many, and with few sessions and secrets and with many.
    Api {
        /// Sessions, and secrets, of the larger platform.
        #[arg(long, default_value_t = bench::api::Effort::FULL.rows)]
        rows: usize,
        /// Calls of each endpoint.
        #[arg(long, default_value_t = bench::api::Effort::FULL.samples)]
        samples: usize,
        /// Also write the figures to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What every report takes of a platform on which agents ran 100,000 times in a month.
    Month {
        /// Runs of each of two months.
        #[arg(long, default_value_t = bench::month::Effort::FULL.runs)]
        runs: u64,
        /// Calls of each report.
        #[arg(long, default_value_t = bench::month::Effort::FULL.samples)]
        samples: usize,
        /// Also write the figures to this file.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What the start of each function's release binary takes, and its size, beside a function that does nothing.
    ///
    /// Measures the binaries that are in a folder: of `cargo lambda build --release`, unless told otherwise.
    ColdStart {
        /// Where the binaries are.
        #[arg(long, default_value = "target/lambda")]
        folder: PathBuf,
        /// Functions to measure; otherwise all that are there.
        #[arg(long)]
        only: Vec<String>,
        /// How often each is started.
        #[arg(long, default_value_t = bench::cold_start::STARTS)]
        starts: usize,
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
        Some(Command::Quickstart { provider }) => quickstart::run(provider, Through::Server).await,
        Some(Command::Lambda) => quickstart::run(On::Docker, Through::LambdaWatch).await,
        Some(Command::Template) => update_template(),
        Some(Command::Bench(Bench::Vault { samples, json })) => measure_vault(samples, json).await,
        Some(Command::Bench(Bench::Api { rows, samples, json })) => measure_api(rows, samples, json).await,
        Some(Command::Bench(Bench::Month { runs, samples, json })) => measure_month(runs, samples, json).await,
        Some(Command::Bench(Bench::Agents { provider, agents, json })) => measure_agents(provider, agents, json).await,
        Some(Command::Openapi) => write_openapi(),
        Some(Command::Bench(Bench::ColdStart { folder, only, starts, json })) => {
            measure_starts(&folder, &only, starts, json).await
        }
        Some(Command::Emulator(EmulatorOf::E2b { listen })) => emulate_e2b(listen).await,
        Some(Command::Emulator(EmulatorOf::Fly { listen })) => emulate_fly(listen).await,
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

fn update_template() -> Result<(), Failure> {
    let changed = theazo_deploy::update()?;
    if changed.is_empty() {
        say("All of it is up to date.");
    }
    for path in changed {
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

async fn measure_vault(samples: usize, json: Option<PathBuf>) -> Result<(), Failure> {
    bench::vault::run(bench::vault::Effort::of(samples)).await?.publish(json.as_deref())
}

async fn measure_api(rows: usize, samples: usize, json: Option<PathBuf>) -> Result<(), Failure> {
    let effort = bench::api::Effort { rows, samples: samples.max(1), ..bench::api::Effort::FULL };
    bench::api::run(effort).await?.publish(json.as_deref())
}

async fn measure_month(runs: u64, samples: usize, json: Option<PathBuf>) -> Result<(), Failure> {
    let effort = bench::month::Effort { runs, samples: samples.max(1), ..bench::month::Effort::FULL };
    bench::month::run(effort).await?.publish(json.as_deref())
}

async fn measure_agents(on: On, agents: usize, json: Option<PathBuf>) -> Result<(), Failure> {
    let effort = bench::agents::Effort { agents: agents.max(1), ..bench::agents::Effort::FULL };
    bench::agents::run(on, effort).await?.publish(json.as_deref())
}

fn write_openapi() -> Result<(), Failure> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
    Ok(std::fs::write(path, theazo_openapi::document_text())?)
}

async fn emulate_e2b(listen: SocketAddr) -> Result<(), Failure> {
    init_logging(LogFormat::Text)?;
    let folder = Throwaway::make();
    std::fs::create_dir_all(folder.path())?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    say(&format!(
        "The E2B emulator runs. Any key is good; the official SDKs find it by\n    E2B_API_URL={url} E2B_SANDBOX_URL={url} E2B_API_KEY=e2b_0000"
    ));
    say(&format!(
        "What the real service would have logged: {url}/_emulator/records\nCtrl-C ends it, and every sandbox."
    ));
    theazo_e2b_emulator::Emulator::new(folder.path(), None).serve(listener, interrupted()).await?;
    Ok(())
}

async fn emulate_fly(listen: SocketAddr) -> Result<(), Failure> {
    init_logging(LogFormat::Text)?;
    let programs = machine_programs(&TerminalProgress).await?;
    let folder = Throwaway::make();
    std::fs::create_dir_all(folder.path())?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = FlyEndpoints::emulator(&url).app;
    say(&format!(
        "The Fly emulator runs. Any token and organization are good; clients find it at {url}/v1, and functions by\n    THEAZO_FLY_API_URL={url} THEAZO_FLY_APP_URL={app}"
    ));
    say(&format!(
        "What Fly could have seen: {url}/_emulator/records\nCalls that are not as Fly describes them: {url}/_emulator/violations\nCtrl-C ends it, and every machine."
    ));
    theazo_fly_emulator::Emulator::new(folder.path(), None, programs).serve(listener, interrupted()).await?;
    Ok(())
}

async fn measure_starts(folder: &Path, only: &[String], starts: usize, json: Option<PathBuf>) -> Result<(), Failure> {
    let report = bench::cold_start::run(folder, only, starts.max(1)).await?;
    report.publish(json.as_deref())?;
    let over = bench::cold_start::over_the_aim(&report);
    say(if over.is_empty() {
        "\nAll are within the aim."
    } else {
        "\nAbove the aim of 1.3 times the time and 1.5 times the memory:"
    });
    over.iter().for_each(|line| say(&format!("    {line}")));
    Ok(())
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
        listen: args.listen,
        dynamodb_listen: args.dynamodb_listen,
        docker,
        e2b: e2b_from_env(),
        fly: fly_from_env(),
        rate_limits: rate_limits_from_env()?,
        ..StackConfig::on_loopback(args.data_dir.clone())
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
    // Whole, so that they are good in any folder that a reader is in.
    let whole = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let key_file = whole(stack.data_dir().file("api-key"));
    let base = stack.base_url();
    say("\nTheazo runs");
    say(&format!("    API       {base}/v1"));
    say(&format!("    table     {}  (any DynamoDB tool; table `theazo`)", stack.dynamodb_url()));
    say(&format!("    live key  {}", key_file.display()));
    say(&format!("    test key  {}", whole(stack.data_dir().file("test-api-key")).display()));
    say(&format!("    state     {}", whole(args.data_dir.clone()).display()));
    say("\nA first call:");
    // A folder's name may hold a quote itself; the line must still work when pasted.
    let quoted = key_file.to_string_lossy().replace('\'', r"'\''");
    say(&format!("    curl -s {base}/v1/whoami -H \"Authorization: Bearer $(cat '{quoted}')\""));
    say("\nCtrl-C stops it; starting again goes on with the same data.");
}

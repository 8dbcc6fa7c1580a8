//! Running code: streams, limits, and that nothing is left of what ran too long.

use crate::support::{CAP, in_own_deployment, name, request};
use bollard::query_parameters::KillContainerOptions;
use bytes::Bytes;
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use theazo_providers::{AgentRef, ExecRequest, Language, Provider, ProviderError};

#[tokio::test]
async fn streams_exit_code_and_signal_come_back_apart() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let output = bed.run(&agent, Language::Bash, "echo out; echo err >&2; exit 7").await;
        assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((output.exit_code, output.timed_out), (7, false));
        let killed = bed.run(&agent, Language::Bash, "kill -KILL $$").await;
        assert_eq!(killed.exit_code, 137);
        let id = "import os; print(os.getuid(), os.getgid(), os.getcwd(), os.getpid() != 1)";
        assert_eq!(bed.output(&agent, Language::Python, id).await, "10001 10001 /data True\n");
    })
    .await;
}

#[tokio::test]
async fn a_mebibyte_of_every_byte_goes_in_and_comes_out_unchanged() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let stdin: Bytes = (0..CAP).map(|at| (at % 251) as u8 ^ (at >> 8) as u8).collect();
        let echo = ExecRequest { stdin: stdin.clone(), ..request(Language::Bash, "exec cat") };
        let output = bed.provider.exec(&agent, echo).await.unwrap();
        assert!(output.stdout == stdin, "{} bytes came back", output.stdout.len());
        assert!(!output.stdout_truncated && output.stderr.is_empty());
    })
    .await;
}

#[tokio::test]
async fn output_beyond_the_cap_is_cut_and_marked_and_the_program_runs_to_its_end() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let code = "import sys; sys.stdout.write('a' * 5_000_000); sys.stderr.write('b' * 100); sys.exit(3)";
        let capped = ExecRequest { output_cap: 1000, ..request(Language::Python, code) };
        let output = bed.provider.exec(&agent, capped).await.unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len(), output.exit_code), (1000, 100, 3));
        assert!(output.stdout_truncated && !output.stderr_truncated);
    })
    .await;
}

/// Prints how many `sleep` processes there are in the sandbox.
const COUNT: &str = "import os
mine = [p for p in os.listdir('/proc') if p.isdigit()]
count = 0
for p in mine:
    try:
        if b'sleep' in open(f'/proc/{p}/cmdline', 'rb').read(): count += 1
    except OSError: pass
print(count, end='')";

#[tokio::test]
async fn a_timeout_leaves_no_process_of_the_tree_however_it_was_detached() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let code = "sleep 300 & (sleep 300 &) ; \
                    python3 -c 'import os; os.setsid(); os.execvp(\"sleep\", [\"sleep\", \"300\"])' & \
                    python3 -c 'import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: os.execvp(\"sleep\", [\"sleep\", \"300\"])
    os._exit(0)
' & wait";
        let slow = ExecRequest { timeout: Duration::from_secs(6), ..request(Language::Bash, code) };
        let counted = {
            let (bed, agent) = (bed.clone(), agent.clone());
            async move {
                // The count must be able to see them while they run.
                for _ in 0..40 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if bed.output(&agent, Language::Python, COUNT).await == "4" {
                        return true;
                    }
                }
                false
            }
        };
        let began = Instant::now();
        let (output, seen) = tokio::join!(bed.provider.exec(&agent, slow), counted);
        let output = output.unwrap();
        assert!(seen, "the processes were never all there");
        assert!(output.timed_out);
        assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
        assert_eq!(bed.output(&agent, Language::Python, COUNT).await, "0");
    })
    .await;
}

#[tokio::test]
async fn code_that_kills_its_guest_fails_and_leaves_nothing_running() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let code = "import os
if os.fork() == 0:
    os.setsid()
    os.execvp('sleep', ['sleep', '300'])
os.kill(os.getppid(), 9)
os.execvp('sleep', ['sleep', '300'])";
        let answer = bed.provider.exec(&agent, request(Language::Python, code)).await;
        assert!(matches!(answer, Err(ProviderError::Failed { retryable: false, .. })), "{:?}", answer.err());
        assert_eq!(bed.output(&agent, Language::Python, COUNT).await, "0");
    })
    .await;
}

#[tokio::test]
async fn twenty_programs_at_once_each_get_their_own_answer() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let answers = join_all((0..20).map(|number| {
            let (bed, agent) = (bed.clone(), agent.clone());
            async move { bed.output(&agent, Language::Bash, &format!("sleep 0.2; echo {number}")).await }
        }))
        .await;
        let expected: Vec<String> = (0..20).map(|number| format!("{number}\n")).collect();
        assert_eq!(answers, expected);
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_that_was_killed_or_never_made_is_gone() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        let during = bed.provider.exec(&agent, request(Language::Bash, "sleep 30"));
        let kill = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            bed.docker.kill_container(&name(&agent), None::<KillContainerOptions>).await.unwrap();
        };
        let (during, ()) = tokio::join!(during, kill);
        assert!(matches!(during, Err(ProviderError::SandboxGone)), "killed during the call: {:?}", during.err());
        let after = bed.provider.exec(&agent, request(Language::Bash, "true")).await;
        assert!(matches!(after, Err(ProviderError::SandboxGone)), "killed before the call");
        assert!(matches!(bed.provider.list_files(&agent, "/data").await, Err(ProviderError::SandboxGone)));
        let never = AgentRef { agent: theazo_tenancy::AgentId::make().to_string() };
        let never = bed.provider.exec(&never, request(Language::Bash, "true")).await;
        assert!(matches!(never, Err(ProviderError::SandboxGone)), "never made");
    })
    .await;
}

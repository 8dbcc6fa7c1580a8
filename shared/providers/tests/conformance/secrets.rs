//! The promises about delivered values.

use crate::bed::{Bed, agent, environment, request, spec};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::sync::Arc;
use theazo_providers::{Environment, ExecRequest, Language, OutputWatch, ProviderError};
use theazo_tenancy::AgentId;

crate::promises! { "secrets":
    Processes every_runtime_and_its_children_see_the_delivered_values;
    Processes values_stay_for_every_process_until_the_sandbox_stops_and_are_gone_after;
    Processes resuming_delivers_the_values_of_now_and_drops_the_others;
    Processes creating_again_delivers_the_values_of_now;
    Processes what_one_agent_was_given_is_not_in_another;
    Processes the_largest_environment_that_the_vault_holds_is_delivered_whole;
    Processes a_variable_that_no_process_can_have_is_refused_and_leaves_nothing;
    Insight nothing_that_the_provider_logs_shows_or_stores_has_a_value_in_it;
    Insight nothing_that_a_pause_keeps_has_a_value_in_it;
    Processes a_process_that_crashes_leaves_no_file_with_what_it_held;
    Processes what_a_pause_took_away_is_found_nowhere_by_what_runs_after_it;
}

const PYTHON: &str = "import os; print(os.environ.get('API_TOKEN'), end='')";
const NODE: &str = "process.stdout.write(String(process.env.API_TOKEN))";
const BASH: &str = "printf %s \"${API_TOKEN-none}\"";

async fn every_runtime_and_its_children_see_the_delivered_values(bed: Arc<Bed>) {
    let value = "line one\nline \"two\" = ü 🦀 $HOME";
    let (_, agent) = bed.create(&[("API_TOKEN", value), ("EMPTY", "")]).await;
    for (language, code) in [(Language::Python, PYTHON), (Language::Node, NODE), (Language::Bash, BASH)] {
        let output = bed.run(&agent, language, code).await;
        assert_eq!(output.stdout, value, "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(bed.bash(&agent, "bash -c 'printf %s \"$API_TOKEN\"'").await, value);
    assert_eq!(bed.bash(&agent, "printf %s \"${EMPTY-unset}\"").await, "");
    bed.destroy(&agent).await;
}

async fn values_stay_for_every_process_until_the_sandbox_stops_and_are_gone_after(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[("API_TOKEN", "kept-until-stop")]).await;
    for _ in 0..3 {
        assert_eq!(bed.bash(&agent, BASH).await, "kept-until-stop");
    }
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    assert_eq!(bed.bash(&agent, BASH).await, "none");
    bed.destroy(&agent).await;
}

async fn a_process_that_crashes_leaves_no_file_with_what_it_held(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[("API_TOKEN", "in-memory")]).await;
    assert_eq!(bed.bash(&agent, "ulimit -Hc; ulimit -Sc").await, "0\n0\n");
    // It would lie where the program was.
    let crash = "cd /data && { bash -c 'kill -SEGV $$'; echo $?; ls -A; }";
    assert_eq!(bed.bash(&agent, crash).await, "139\n");
    bed.destroy(&agent).await;
}

async fn resuming_delivers_the_values_of_now_and_drops_the_others(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[("API_TOKEN", "old"), ("DROPPED", "x")]).await;
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &environment(&[("API_TOKEN", "new")])).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf '%s %s' \"$API_TOKEN\" \"${DROPPED-none}\"").await, "new none");
    // One that was interrupted and is done again, with other values.
    bed.provider.resume(&spec, &environment(&[("DROPPED", "y")])).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf '%s %s' \"${API_TOKEN-none}\" \"$DROPPED\"").await, "none y");
    bed.destroy(&agent).await;
}

async fn creating_again_delivers_the_values_of_now(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[("API_TOKEN", "old"), ("DROPPED", "x")]).await;
    bed.provider.create(&spec, &environment(&[("API_TOKEN", "new")])).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf '%s %s' \"$API_TOKEN\" \"${DROPPED-none}\"").await, "new none");
    bed.destroy(&agent).await;
}

async fn what_one_agent_was_given_is_not_in_another(bed: Arc<Bed>) {
    let (one, other) = tokio::join!(bed.create(&[("API_TOKEN", "the one's")]), bed.create(&[]));
    assert_eq!(bed.bash(&other.1, BASH).await, "none");
    assert_eq!(bed.bash(&one.1, BASH).await, "the one's");
    bed.destroy(&one.1).await;
    bed.destroy(&other.1).await;
}

async fn the_largest_environment_that_the_vault_holds_is_delivered_whole(bed: Arc<Bed>) {
    // Two scopes of 256 KiB each, in values of 32 KiB.
    let names: Vec<String> = (0..16).map(|number| format!("LARGE_{number}")).collect();
    let value = "x".repeat(32 * 1024);
    let entries: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    let (_, agent) = bed.create(&entries).await;
    let output = bed
        .run(
            &agent,
            Language::Python,
            "import os
print(sum(len(v) for n, v in os.environ.items() if n.startswith('LARGE_')), end='')",
        )
        .await;
    assert_eq!(output.stdout, (16 * 32 * 1024).to_string());
    bed.destroy(&agent).await;
}

async fn a_variable_that_no_process_can_have_is_refused_and_leaves_nothing(bed: Arc<Bed>) {
    let spec = spec();
    let refused = bed.provider.create(&spec, &environment(&[("A", "nul\0inside")])).await;
    assert!(matches!(refused, Err(ProviderError::Failed { retryable: false, .. })));
    assert_eq!(bed.listed(&agent(&spec)).await, None);
}

/// A value nobody else has, and what it looks like in base64 at each alignment.
pub fn canary() -> (String, Vec<String>) {
    let value = format!("canary-{}-value", AgentId::make());
    let bytes = value.as_bytes();
    let middles = (0..3).map(|skip| {
        let whole_groups = &bytes[skip..];
        STANDARD_NO_PAD.encode(&whole_groups[..whole_groups.len() / 3 * 3])
    });
    let looks = middles.chain([value.clone(), hex::encode(bytes)]).collect();
    (value, looks)
}

async fn nothing_that_the_provider_logs_shows_or_stores_has_a_value_in_it(bed: Arc<Bed>) {
    let (value, looks) = canary();
    let (spec, agent) = bed.create(&[("API_TOKEN", &value)]).await;
    for (language, code) in [(Language::Python, PYTHON), (Language::Node, NODE), (Language::Bash, BASH)] {
        assert_eq!(bed.run(&agent, language, code).await.stdout, value);
        // Nor when it is told on the way.
        let (watch, mut pieces) = OutputWatch::new();
        let watched = ExecRequest { watch: Some(watch), ..request(language, code) };
        assert_eq!(bed.provider.exec(&agent, watched).await.unwrap().stdout, value);
        assert!(pieces.recv().await.is_some());
    }
    // Code, input and files are the agent's own; they are not logged either.
    let hidden = format!("hidden-{}", AgentId::make());
    bed.bash(&agent, &format!("echo {hidden} > /data/hidden")).await;
    bed.write(&agent, "/data/other", hidden.as_bytes()).await.unwrap();
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &environment(&[("API_TOKEN", &value)])).await.unwrap();
    let shown = bed.shown(&agent).await;
    for look in &looks {
        assert!(memchr::memmem::find(&shown, look.as_bytes()).is_none(), "{look} was shown");
    }
    bed.destroy(&agent).await;
    let called = if bed.engine.is_some() { crate::engine::name(&agent.agent) } else { agent.agent.clone() };
    assert!(bed.records().await.contains(&called), "the records have this agent's calls");
    assert_not_on_record(&bed, looks.iter().chain([&hidden])).await;
}

/// Fails if the provider has logged, shown or stored one of these looks of a value.
pub async fn assert_not_on_record<'a>(bed: &Bed, looks: impl IntoIterator<Item = &'a String>) {
    let records = bed.records().await;
    let starts = match (&bed.engine, &bed.fly) {
        (Some(_), _) => "exec_create",
        (None, Some(_)) => "theazo-machine",
        (None, None) => "process.Process/Start",
    };
    assert!(records.contains(starts), "what processes were started with is on record");
    for look in looks {
        assert!(!records.contains(look.as_str()), "{look} was logged");
    }
}

/// Fails if one of these looks of a value is in what the provider keeps under that id: an agent that is stopped, or a
/// checkpoint.
pub async fn assert_not_kept(bed: &Bed, id: &str, looks: &[String]) {
    let kept = bed.kept(id).await;
    assert!(kept.windows(6).any(|window| window == b"found\n"), "what is kept has the files");
    for look in looks {
        assert!(memchr::memmem::find(&kept, look.as_bytes()).is_none(), "{look} was kept");
    }
}

async fn nothing_that_a_pause_keeps_has_a_value_in_it(bed: Arc<Bed>) {
    let (value, looks) = canary();
    let (_, agent) = bed.create(&[("API_TOKEN", &value)]).await;
    bed.bash(&agent, "echo found > /data/file; (sleep 300 &)").await;
    bed.provider.stop(&agent).await.unwrap();
    assert_not_kept(&bed, &agent.agent, &looks).await;
    if let Some(e2b) = &bed.e2b {
        assert!(!e2b.controls.records().iter().any(|record| record.kind == "snapshot"), "memory was kept");
    }
    bed.destroy(&agent).await;
}

async fn what_a_pause_took_away_is_found_nowhere_by_what_runs_after_it(bed: Arc<Bed>) {
    let (value, _) = canary();
    let (spec, agent) = bed.create(&[("API_TOKEN", &value)]).await;
    // The script itself lies in `/tmp` while it runs, and does not match its own pattern.
    let searched = "grep -rl '[c]anary-' /run /data /tmp /proc/[0-9]*/environ 2>/dev/null; true";
    let found = bed.bash(&agent, searched).await;
    assert!(found.contains("/environ") && found.contains("/run/"), "what has it is found: {found:?}");
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    assert_eq!(bed.bash(&agent, searched).await, "");
    bed.destroy(&agent).await;
}

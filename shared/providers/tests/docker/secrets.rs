//! What the engine adds to the promises about delivered values, which the conformance suite tries on every provider.

use crate::support::{agent, environment, in_own_deployment, name, spec};
use bollard::query_parameters::RestartContainerOptions;
use theazo_providers::{Language, Provider, ProviderError};

const BASH: &str = "printf %s \"$API_TOKEN\"";

#[tokio::test]
async fn values_are_gone_after_the_engine_has_restarted_a_container_and_the_next_are_as_private() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "kept-until-stop")])).await.unwrap();
        let agent = agent(&spec);
        assert_eq!(bed.output(&agent, Language::Bash, BASH).await, "kept-until-stop");
        bed.docker.restart_container(&name(&agent), None::<RestartContainerOptions>).await.unwrap();
        assert_eq!(bed.output(&agent, Language::Bash, BASH).await, "");
        // The mode survives the restart, so that the next delivery is as private as the first.
        let mode = "import os; s = os.stat('/run/agent'); print(oct(s.st_mode & 0o7777), s.st_uid, s.st_gid, end='')";
        assert_eq!(bed.output(&agent, Language::Python, mode).await, "0o750 0 10001");
    })
    .await;
}

#[tokio::test]
async fn a_variable_that_cannot_be_delivered_leaves_nothing_behind() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let refused = bed.provider.create(&spec, &environment(&[("A", "nul\0inside")])).await;
        assert!(matches!(refused, Err(ProviderError::Failed { retryable: false, .. })));
        assert_eq!(bed.count(&agent(&spec)).await, (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn agent_code_can_neither_change_nor_remove_the_delivered_values() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "fixed")])).await.unwrap();
        let attack = "cd /run/agent; (echo API_TOKEN=x > env) 2>/dev/null; (echo > other) 2>/dev/null; \
                      python3 -c \"import os; os.unlink('/run/agent/env')\" 2>/dev/null; ls -A /run/agent";
        assert_eq!(bed.output(&agent(&spec), Language::Bash, attack).await, "env\n");
        assert_eq!(bed.output(&agent(&spec), Language::Bash, BASH).await, "fixed");
    })
    .await;
}

/// The environment is taken away while the container still runs, so that no moment lies between in which it is stopped
/// and an image of it could be made with the memory still there.
#[tokio::test]
async fn an_empty_delivery_takes_the_values_away_from_what_starts_after_it() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "taken away")])).await.unwrap();
        bed.provider.create(&spec, &environment(&[])).await.unwrap();
        let agent = agent(&spec);
        let left = "printf '%s' \"${API_TOKEN-none}\"; wc -c < /run/agent/env; ls -A /run/agent";
        assert_eq!(bed.output(&agent, Language::Bash, left).await, "none0\nenv\n");
    })
    .await;
}

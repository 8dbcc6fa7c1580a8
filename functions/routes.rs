//! The one route table. What is not in it does not exist.
//!
//! A line says everything about an endpoint: its name (also its function's and its binary's), method and path, who may
//! call it, which capabilities it is handed, whether its answer is a stream (`streams true`), which parameters of a
//! query it takes, and its handler. The local server and the Lambda binaries come from it.

use crate::deployment::{Capability, CapabilityName, Deployment};
use crate::{account, agents, audit, keys, logs, metrics, providers, sandbox, secrets, sessions, usage};
use std::future::Future;
use std::pin::Pin;
use theazo_http::{Answer, ApiError, Call, Caller, Pattern, Repeats, RouteInfo};
use theazo_store::{
    AgentCopies, AgentReports, AgentTokens, Agents, ApiKeys, AuditLog, LogWriter, Logs, Measurements, Metrics,
    ProviderConfigs, ProviderCredentials, Replays, SecretNames, SecretOpener, SecretSealer, SessionTokens, Sessions,
    TokenCopies, Usage,
};

use crate::agents::Sandboxes;
use theazo_providers::docker::HostRanges;

/// What a handler gives.
pub type Handling = Pin<Box<dyn Future<Output = Result<Answer, ApiError>> + Send>>;

/// An endpoint.
pub struct Route {
    /// What it declares about itself.
    pub info: RouteInfo,
    /// What it is handed.
    pub capabilities: &'static [CapabilityName],
    /// Its handler, with its capabilities handed out.
    pub handler: fn(Call, &Deployment) -> Handling,
}

macro_rules! repeats {
    () => {
        Repeats::Harmless
    };
    ($repeats:ident) => {
        Repeats::$repeats
    };
}

macro_rules! routes {
    ($($constant:ident = $name:literal $method:ident $path:literal
        by [$($caller:ident),+] needs [$($capability:ident),*] $(streams $streams:literal)? $(repeats $repeats:ident)?
        $(query [$($parameter:literal),+])?
        => $noun:ident::$file:ident;)+) => {
        $(
            #[doc = concat!("`", stringify!($method), " ", $path, "`")]
            pub static $constant: Route = Route {
                info: RouteInfo {
                    name: $name,
                    method: stringify!($method),
                    pattern: Pattern($path),
                    callers: &[$(Caller::$caller),+],
                    streams: false $(|| $streams)?,
                    repeats: repeats!($($repeats)?),
                    query: &[$($($parameter),+)?],
                },
                capabilities: &[$(<$capability as Capability>::NAME),*],
                handler: |call, _deployment| {
                    Box::pin($noun::$file::handle(call $(, <$capability as Capability>::of(_deployment))*))
                },
            };
        )+

        /// Every endpoint.
        pub static ROUTES: &[&Route] = &[$(&$constant),+];
    };
}

routes! {
    HEALTH = "health" GET "/health"
        by [Anyone] needs [] => account::health;
    OPENAPI = "openapi" GET "/v1/openapi.json"
        by [Anyone] needs [] => account::openapi;
    DOCS = "docs" GET "/docs"
        by [Anyone] needs [] => account::docs;
    WHOAMI = "whoami" GET "/v1/whoami"
        by [Platform, Session] needs [] => account::whoami;

    API_KEYS_CREATE = "api-keys-create" POST "/v1/api-keys"
        by [Platform] needs [ApiKeys, Replays] repeats Once => keys::create;
    API_KEYS_LIST = "api-keys-list" GET "/v1/api-keys"
        by [Platform] needs [ApiKeys] query ["limit", "cursor"] => keys::list;
    API_KEYS_ROTATE = "api-keys-rotate" POST "/v1/api-keys/{id}/rotate"
        by [Platform] needs [ApiKeys, Replays] repeats Once => keys::rotate;
    API_KEYS_DELETE = "api-keys-delete" DELETE "/v1/api-keys/{id}"
        by [Platform] needs [ApiKeys] query ["force"] => keys::delete;

    SESSIONS_CREATE = "sessions-create" POST "/v1/sessions"
        by [Platform] needs [Sessions, Replays] repeats Once => sessions::create;
    SESSIONS_BY_USER = "sessions-by-user" POST "/v1/sessions/by-user/{userId}"
        by [Platform] needs [Sessions, Replays] repeats Once => sessions::by_user;
    SESSIONS_LIST = "sessions-list" GET "/v1/sessions"
        by [Platform] needs [Sessions] query ["status", "userId", "createdAfter", "limit", "cursor"] => sessions::list;
    SESSIONS_GET = "sessions-get" GET "/v1/sessions/{id}"
        by [Platform, Session] needs [Sessions] => sessions::get;
    SESSIONS_LIMITS_GET = "sessions-limits-get" GET "/v1/sessions/{id}/limits"
        by [Platform, Session] needs [Sessions, Agents] => sessions::limits_get;
    SESSIONS_LIMITS_SET = "sessions-limits-set" PATCH "/v1/sessions/{id}/limits"
        by [Platform] needs [Sessions, Agents] => sessions::limits_set;
    SESSIONS_USAGE = "sessions-usage" GET "/v1/sessions/{id}/usage"
        by [Platform, Session] needs [Sessions, Agents] => sessions::usage;
    SESSIONS_TOKENS_CREATE = "sessions-tokens-create" POST "/v1/sessions/{id}/tokens"
        by [Platform] needs [Sessions, SessionTokens, Replays] repeats Once => sessions::tokens_create;
    SESSIONS_TOKENS_DELETE = "sessions-tokens-delete" DELETE "/v1/sessions/{id}/tokens"
        by [Platform] needs [SessionTokens] => sessions::tokens_delete;
    SESSIONS_PAUSE = "sessions-pause" POST "/v1/sessions/{id}/pause"
        by [Platform] needs [Sessions, Agents, Sandboxes] => sessions::pause;
    SESSIONS_RESUME = "sessions-resume" POST "/v1/sessions/{id}/resume"
        by [Platform] needs [Sessions, Agents, SecretOpener, AgentCopies, AgentTokens, Sandboxes] => sessions::resume;
    SESSIONS_TERMINATE = "sessions-terminate" POST "/v1/sessions/{id}/terminate"
        by [Platform] needs [Sessions, Agents, SecretSealer, Sandboxes] => sessions::terminate;

    SECRETS_SET = "secrets-set" POST "/v1/sessions/{id}/secrets"
        by [Platform] needs [Sessions, SecretSealer, Replays] repeats Once => secrets::set;
    SECRETS_LIST = "secrets-list" GET "/v1/sessions/{id}/secrets"
        by [Platform, Session] needs [Sessions, SecretNames, Agents] query ["details", "inherited"] => secrets::list;
    SECRETS_DELETE = "secrets-delete" DELETE "/v1/sessions/{id}/secrets/{name}"
        by [Platform] needs [Sessions, SecretSealer] => secrets::delete;
    PLATFORM_SECRETS_SET = "platform-secrets-set" POST "/v1/secrets"
        by [Platform] needs [SecretSealer, Replays] repeats Once => secrets::platform_set;
    PLATFORM_SECRETS_LIST = "platform-secrets-list" GET "/v1/secrets"
        by [Platform] needs [SecretNames, Agents] query ["details"] => secrets::platform_list;
    PLATFORM_SECRETS_DELETE = "platform-secrets-delete" DELETE "/v1/secrets/{name}"
        by [Platform] needs [SecretSealer] => secrets::platform_delete;

    AGENTS_CREATE = "agents-create" POST "/v1/sessions/{id}/agents"
        by [Platform, Session] needs [Sessions, Agents, SecretOpener, AgentCopies, AgentTokens, Sandboxes, Replays] repeats Once => agents::create;
    AGENTS_LIST_OF_SESSION = "agents-list-of-session" GET "/v1/sessions/{id}/agents"
        by [Platform, Session] needs [Sessions, Agents] query ["status", "provider", "compute", "limit", "cursor"] => agents::list_of_session;
    AGENTS_LIST = "agents-list" GET "/v1/agents"
        by [Platform] needs [Agents] query ["status", "provider", "compute", "limit", "cursor"] => agents::list;
    AGENTS_GET = "agents-get" GET "/v1/agents/{id}"
        by [Platform, Session] needs [Agents] => agents::get;
    AGENTS_STATUS = "agents-status" GET "/v1/agents/{id}/status"
        by [Platform, Session] needs [Agents] => agents::status;
    AGENTS_EXEC = "agents-exec" POST "/v1/agents/{id}/exec"
        by [Platform, Session] needs [Agents, Replays, AgentCopies, Sandboxes, LogWriter, Measurements] streams true repeats Again => agents::exec;
    AGENTS_FILES_WRITE = "agents-files-write" POST "/v1/agents/{id}/files"
        by [Platform, Session] needs [Agents, Sandboxes] repeats Again => agents::files_write;
    AGENTS_FILES_LIST = "agents-files-list" GET "/v1/agents/{id}/files"
        by [Platform, Session] needs [Agents, Sandboxes] query ["dir"] => agents::files_list;
    AGENTS_FILES_READ = "agents-files-read" GET "/v1/agents/{id}/files/{path*}"
        by [Platform, Session] needs [Agents, Sandboxes] query ["offset", "length", "encoding"] => agents::files_read;
    AGENTS_SECRETS_LIST = "agents-secrets-list" GET "/v1/agents/{id}/secrets"
        by [Platform, Session] needs [Agents, SecretNames] => agents::secrets_list;
    AGENTS_PROGRESS = "agents-progress" GET "/v1/agents/{id}/progress"
        by [Platform, Session] needs [Agents] => agents::progress;
    AGENTS_CHECKPOINTS_CREATE = "agents-checkpoints-create" POST "/v1/agents/{id}/checkpoints"
        by [Platform, Session] needs [Agents, Sandboxes, Replays] repeats Once => agents::checkpoints_create;
    AGENTS_CHECKPOINTS_LIST = "agents-checkpoints-list" GET "/v1/agents/{id}/checkpoints"
        by [Platform, Session] needs [Agents] => agents::checkpoints_list;
    AGENTS_PORTS_OPEN = "agents-ports-open" POST "/v1/agents/{id}/ports"
        by [Platform, Session] needs [Agents, Sandboxes] => agents::ports_open;
    AGENTS_PAUSE = "agents-pause" POST "/v1/agents/{id}/pause"
        by [Platform, Session] needs [Agents, Sandboxes] => agents::pause;
    AGENTS_RESUME = "agents-resume" POST "/v1/agents/{id}/resume"
        by [Platform, Session] needs [Sessions, Agents, SecretOpener, AgentCopies, AgentTokens, Sandboxes] => agents::resume;
    AGENTS_RESTART = "agents-restart" POST "/v1/agents/{id}/restart"
        by [Platform, Session] needs [Sessions, Agents, SecretOpener, AgentCopies, AgentTokens, Sandboxes] repeats Again => agents::restart;
    AGENTS_RETRY = "agents-retry" POST "/v1/agents/{id}/retry"
        by [Platform, Session] needs [Sessions, Agents, SecretOpener, AgentCopies, AgentTokens, Sandboxes] => agents::retry;
    AGENTS_TERMINATE = "agents-terminate" POST "/v1/agents/{id}/terminate"
        by [Platform, Session] needs [Agents, Sandboxes] => agents::terminate;

    SANDBOX_LOG = "sandbox-log" POST "/a/{token}/v1/sandbox/log"
        by [Agent] needs [TokenCopies, LogWriter] repeats Again => sandbox::log;
    SANDBOX_MODEL = "sandbox-model" POST "/a/{token}/v1/sandbox/model"
        by [Agent] needs [TokenCopies, AgentReports, LogWriter] repeats Again => sandbox::model;
    SANDBOX_SPAN = "sandbox-span" POST "/a/{token}/v1/sandbox/span"
        by [Agent] needs [TokenCopies, LogWriter] repeats Again => sandbox::span;
    SANDBOX_PROGRESS = "sandbox-progress" POST "/a/{token}/v1/sandbox/progress"
        by [Agent] needs [TokenCopies, AgentReports, LogWriter] repeats Again => sandbox::progress;
    SANDBOX_COMPLETE = "sandbox-complete" POST "/a/{token}/v1/sandbox/complete"
        by [Agent] needs [TokenCopies, AgentReports, LogWriter] repeats Again => sandbox::complete;

    PROVIDERS_LIST = "providers-list" GET "/v1/providers"
        by [Platform] needs [ProviderConfigs, Sandboxes] => providers::list;
    PROVIDERS_SET = "providers-set" PUT "/v1/providers/{provider}"
        by [Platform] needs [ProviderCredentials, ProviderConfigs, Agents, HostRanges] => providers::set;
    PROVIDERS_DELETE = "providers-delete" DELETE "/v1/providers/{provider}"
        by [Platform] needs [ProviderConfigs, Agents] => providers::delete;

    USAGE_SUMMARY = "usage-summary" GET "/v1/usage/summary"
        by [Platform] needs [Usage, Agents] query ["period"] => usage::summary;
    USAGE_USER = "usage-user" GET "/v1/usage/users/{userId}"
        by [Platform] needs [Usage, Agents] query ["period"] => usage::user;
    USAGE_DAILY = "usage-daily" GET "/v1/usage/daily"
        by [Platform] needs [Usage, Agents] query ["period"] => usage::daily;
    USAGE_BY_PROVIDER = "usage-by-provider" GET "/v1/usage/by-provider"
        by [Platform] needs [Usage, Agents] query ["period"] => usage::by_provider;
    USAGE_EXPORT = "usage-export" GET "/v1/usage/export"
        by [Platform] needs [Usage, Agents] query ["period", "format"] => usage::export;

    METRICS_SUMMARY = "metrics-summary" GET "/v1/metrics/summary"
        by [Platform] needs [Metrics, Usage, Agents] => metrics::summary;
    METRICS_SERIES = "metrics-series" GET "/v1/metrics"
        by [Platform] needs [Metrics, Usage, Agents] query ["metric", "since", "until", "interval"] => metrics::series;

    AUDIT_LIST = "audit-list" GET "/v1/audit"
        by [Platform] needs [AuditLog] query ["secret", "session", "key", "since", "until", "limit", "cursor"] => audit::list;

    LOGS_LIST = "logs-list" GET "/v1/logs"
        by [Platform, Session] needs [Logs] query ["sessionId", "agentId", "level", "search", "since", "until", "limit", "cursor"] => logs::list;
    LOGS_STREAM = "logs-stream" GET "/v1/logs/stream"
        by [Platform, Session] needs [Logs] streams true query ["sessionId", "agentId", "level", "search", "since", "until"] => logs::stream;
    AGENTS_LOGS_STREAM = "agents-logs-stream" GET "/v1/agents/{id}/logs/stream"
        by [Platform, Session] needs [Agents, Logs] streams true query ["level", "search", "since", "until"] => agents::logs_stream;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::SCHEDULED;
    use std::collections::HashSet;

    #[test]
    fn names_and_method_with_path_are_unique() {
        let names: HashSet<_> = ROUTES.iter().map(|route| route.info.name).collect();
        let places: HashSet<_> = ROUTES.iter().map(|route| (route.info.method, route.info.pattern.0)).collect();
        assert_eq!((names.len(), places.len()), (ROUTES.len(), ROUTES.len()));
    }

    #[test]
    fn every_route_and_every_scheduled_function_has_a_binary_of_a_few_lines_and_there_is_no_other() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bin");
        let files: HashSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let routes = ROUTES.iter().map(|route| (route.info.name, "lambda!(routes::"));
        let scheduled = SCHEDULED.iter().map(|function| (function.name, "scheduled!(schedule::"));
        let binaries: Vec<_> = routes.chain(scheduled).collect();
        assert_eq!(files, binaries.iter().map(|(name, _)| (*name).to_owned()).collect::<HashSet<_>>());
        let manifest = std::fs::read_to_string(folder.with_file_name("Cargo.toml")).unwrap();
        for (name, runs) in binaries {
            let source = std::fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap();
            let constant = name.replace('-', "_").to_uppercase();
            assert!(source.contains(&format!("{runs}{constant})")), "{name}");
            assert!(source.lines().count() <= 5, "{name}");
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }

    #[test]
    fn functions_that_list_names_have_no_capability_that_could_hold_a_value() {
        for route in ROUTES.iter().filter(|route| route.info.name.ends_with("secrets-list")) {
            for forbidden in
                [CapabilityName::SecretOpener, CapabilityName::SecretSealer, CapabilityName::ProviderCredentials]
            {
                assert!(!route.capabilities.contains(&forbidden), "{}", route.info.name);
            }
        }
    }

    #[test]
    fn what_agents_report_to_has_no_capability_with_a_key_of_the_deployments() {
        let keyless = [CapabilityName::TokenCopies, CapabilityName::AgentReports, CapabilityName::LogWriter];
        let reports: Vec<_> = ROUTES.iter().filter(|route| route.info.pattern.0.starts_with("/a/")).collect();
        assert_eq!(reports.len(), 5);
        for route in reports {
            assert!(route.capabilities.iter().all(|needed| keyless.contains(needed)), "{}", route.info.name);
            assert!(route.info.has_credential_in_path() && route.info.callers == [Caller::Agent]);
        }
        let with_agents = ROUTES.iter().filter(|route| route.info.callers.contains(&Caller::Agent));
        assert_eq!(with_agents.count(), 5, "an agent's token is good for nothing else");
        // The two that read or write what agents report know no key ring, and so no key service.
        for source in [
            include_str!("../shared/store/src/secrets/token_copies.rs"),
            include_str!("../shared/store/src/agent_reports.rs"),
        ] {
            assert!(!source.contains("KeyRing") && !source.contains("kms"));
        }
    }

    #[test]
    fn what_lists_names_knows_no_type_of_values() {
        let store = include_str!("../shared/store/src/secrets/names.rs");
        let listing = [include_str!("secrets/list.rs"), include_str!("secrets/listing.rs")];
        for source in [store, include_str!("secrets/platform_list.rs")].into_iter().chain(listing) {
            for word in ["SecretValue", "ValueRow", "secret_values", "values(scope", "Opener", "Sealer", "theazo_vault"]
            {
                assert!(!source.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn no_endpoint_takes_the_operators_part_or_makes_a_credential() {
        let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))];
        let mut read = 0;
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                // Reconciling has no caller.
                if path.is_dir() {
                    folders.extend(Some(path).filter(|path| !path.ends_with("reconcile")));
                    continue;
                }
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                // Set-up hands out capabilities; this test names what it looks for.
                if ["deployment.rs", "reconcile.rs", "routes.rs", "upkeep.rs"].contains(&name.as_str())
                    || !name.ends_with(".rs")
                {
                    continue;
                }
                read += 1;
                let source = std::fs::read_to_string(&path).unwrap();
                for word in ["Operator", "CredentialRecord", "Claim", ".tenant("] {
                    assert!(!source.contains(word), "{}: {word}", path.display());
                }
            }
        }
        assert!(read > ROUTES.len(), "{read} files");
    }

    #[test]
    fn only_booting_an_agent_opens_values() {
        let openers: Vec<_> = ROUTES
            .iter()
            .filter(|route| route.capabilities.contains(&CapabilityName::SecretOpener))
            .map(|route| route.info.name)
            .collect();
        assert_eq!(openers, ["sessions-resume", "agents-create", "agents-resume", "agents-restart", "agents-retry"]);
    }
}

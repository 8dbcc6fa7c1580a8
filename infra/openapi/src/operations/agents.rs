//! Agents, from outside and from inside.

use crate::operation::Operation;
use crate::schemas::{computes, page_of, providers, statuses};
use crate::shape::{between, component, count, one_of, text};
use theazo_http::ErrorCode::{Conflict, NoProvidersAvailable, Provider, SessionLimitExceeded, UnprocessableEntity};

pub(super) fn describe(name: &str) -> Option<Operation> {
    let agent = |summary| Operation::new("Agents", summary);
    let boots = [Conflict, SessionLimitExceeded, UnprocessableEntity, Provider, NoProvidersAvailable];
    let listed = |operation: Operation| {
        operation
            .query("status", statuses(), "Only those.")
            .query("provider", providers(), "Only those that run there.")
            .query("compute", computes(), "Only those with that runtime.")
            .paged()
            .gives(200, page_of("Agent"))
    };
    let report = |summary, body| Operation::new("Inside a sandbox", summary).body(component(body)).gives_nothing();
    Some(match name {
        "agents-create" => agent("Boot an agent")
            .more("It is `ready` when this answers, with the session's secrets as uppercase environment variables of every process that it runs.")
            .body_if_any(component("NewAgent"))
            .gives(201, component("Agent"))
            .refuses(&boots),
        "agents-list-of-session" => listed(agent("List a session's agents, newest first")),
        "agents-list" => listed(agent("List the platform's agents, newest first")),
        "agents-get" => agent("Show an agent").gives(200, component("Agent")),
        "agents-status" => agent("How an agent stands, and what it cost").gives(200, component("AgentStanding")),
        "agents-exec" => agent("Run code in an agent")
            .more("A non-zero exit code is a result, not an error. Values of the agent's secrets are masked in what it prints. After 240 s white space keeps the connection alive.\n\nWith `stream: true` the answer is Server-Sent Events: `output` with some of `stdout` or of `stderr` as it is written, then `result` with `exitCode` and, if something was cut, `truncated`; or `error` with what the answer would have been. `data: [DONE]` is the end. All `output` put together is what the answer in one piece has, except that what that one leaves out for want of room is there. A comment comes at least every 15 s. What is refused before it runs is refused by its status, as without. Who takes nothing for 10 s is cut off with `reconnect`. A stream that breaks off cannot be taken up again, and its code runs on.")
            .body(component("Exec"))
            .gives_or_events(component("ExecResult"), component("ExecEvent"))
            .refuses(&[Conflict, UnprocessableEntity, Provider, NoProvidersAvailable]),
        "agents-files-write" => agent("Write a file, or a piece of one")
            .body(component("FileToWrite"))
            .gives_nothing()
            .refuses(&[Conflict, UnprocessableEntity, Provider, NoProvidersAvailable]),
        "agents-files-list" => agent("List a directory")
            .query("dir", text(), "The directory; `/data` unless given.")
            .gives(200, component("FileList"))
            .refuses(&[Conflict, UnprocessableEntity, Provider, NoProvidersAvailable]),
        "agents-files-read" => agent("Read a file, or a piece of one")
            .query("offset", count(), "Where to begin.")
            .query("length", between(0, 4 * 1024 * 1024), "How much; 4 MiB unless given.")
            .query("encoding", one_of(&["utf-8", "base64"]), "Text comes as text where it can, unless this asks for base64.")
            .gives(200, component("File"))
            .refuses(&[Conflict, UnprocessableEntity, Provider, NoProvidersAvailable]),
        "agents-secrets-list" => agent("What an agent booted with").gives(200, component("AgentSecrets")),
        "agents-progress" => agent("How far an agent has come").gives(200, component("AgentProgress")),
        "agents-checkpoints-create" => agent("Keep a running agent's files as they are, to boot from later")
            .more("Of `/data` alone: never of memory, nor of the environment. The agent runs on, and what it writes just then may be caught half way. An agent has at most 10, and with one more the oldest goes; they go with the agent when it is terminated, and 30 days after it has ended in another way. A provider that does not keep files alone answers `conflict`. Of an agent one is made at a time.")
            .body_if_any(component("NewCheckpoint"))
            .gives(201, component("Checkpoint"))
            .refuses(&[Conflict, UnprocessableEntity, Provider, NoProvidersAvailable]),
        "agents-checkpoints-list" => agent("List an agent's checkpoints, newest first").gives(200, component("Checkpoints")),
        "agents-ports-open" => agent("Open a port of an agent")
            .more("HTTP requests and WebSockets to `url` that carry all of `headers` reach what listens on that port in the agent, and no others do: one of the headers is a token, so treat the answer as a secret. A program in the agent has to listen on all its addresses (`0.0.0.0`), not on the loopback alone. Asked again for the same run of the agent, this answers the same. The way ends with the run: on pause, restart and whatever else ends it. `conflict` where the agent has as many open ports as it may have; a provider that opens none answers `unprocessable_entity`.")
            .body(component("PortToOpen"))
            .gives(200, component("OpenPort"))
            .refuses(&[Conflict, UnprocessableEntity, Provider, NoProvidersAvailable]),
        "agents-pause" => agent("Pause an agent and keep its files")
            .gives(200, component("Snapshot"))
            .refuses(&[Conflict, Provider, NoProvidersAvailable]),
        "agents-resume" => agent("Boot a paused agent on its files, with the vault's secrets of now")
            .more("With a checkpoint, on that one's files: they take the place of its own from then on, for good. Should this boot fail, the next one is from the same checkpoint, unless another is named.")
            .body_if_any(component("ResumeAgent"))
            .gives(200, component("Agent"))
            .refuses(&boots),
        "agents-restart" => agent("Boot an agent again on its files, with the vault's secrets of now")
            .gives(200, component("Agent"))
            .refuses(&boots),
        "agents-retry" => agent("Boot a failed or completed agent again, from a checkpoint or the files it has kept")
            .more("With the same id, the vault's secrets of now, and all of its running time before it. It takes a place of its session's as a resume does. An agent that has failed because its Docker host could not be reached (`failure`), or has lost its container, as in a restart, keeps its own files there, and boots on them unless a checkpoint is named. `conflict` for an agent that has nothing to boot from, was terminated, or whose last run is still being removed, which waits for its host to answer.")
            .body_if_any(component("RetryAgent"))
            .gives(200, component("Agent"))
            .refuses(&boots),
        "agents-terminate" => agent("End an agent; nothing is left at its provider, its checkpoints included")
            .more("Idempotent.")
            .gives(200, component("Agent"))
            .refuses(&[Conflict, Provider, NoProvidersAvailable]),

        "sandbox-log" => report("A line of the agent's own log", "ReportedLog"),
        "sandbox-model" => report("A call of a model, as the agent claims it", "ReportedModel"),
        "sandbox-span" => report("A stretch of the agent's work", "ReportedSpan"),
        "sandbox-progress" => report("How far the agent says it is", "ReportedProgress"),
        "sandbox-complete" => report("What the agent says has come out", "ReportedResult"),
        _ => return None,
    })
}

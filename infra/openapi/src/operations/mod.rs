//! What is said of each route, by its name in the route table.

mod agents;
mod platform;
mod sessions;

use crate::operation::Operation;
use crate::shape::time;

/// The groups of routes, in the order of a reader's first needs.
pub(crate) const TAGS: [(&str, &str); 8] = [
    ("Account", "Who is calling, and whether anybody answers."),
    ("API keys", "A platform's own credentials."),
    ("Sessions", "A platform's end users, each apart from all others."),
    ("Secrets", "Values go in and come out nowhere but in an agent's environment."),
    ("Agents", "Sandboxes that run an end user's work, with the secrets in their environment."),
    ("Providers", "Where agents run."),
    ("Observability", "What happened and what it cost."),
    ("Inside a sandbox", "What agents report of themselves. The address is in their environment as `THEAZO_ENDPOINT`."),
];

/// The description of the route of that name.
pub(crate) fn describe(name: &str) -> Option<Operation> {
    sessions::describe(name).or_else(|| agents::describe(name)).or_else(|| platform::describe(name))
}

/// Takes the span of time of lists.
fn between_times(operation: Operation) -> Operation {
    operation.query("since", time(), "The first moment that is shown.").query(
        "until",
        time(),
        "The first moment that is not shown any more.",
    )
}

//! Who acts: what the audit trail says of a change.

use crate::{KeyId, RequestId};
use std::net::IpAddr;

/// The kinds of actor, named as in the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    /// A platform, by an API key.
    Platform,
    /// An end user's session, by its token.
    Session,
    /// An agent, by its token.
    Agent,
    /// The deployment's operator, on the command line.
    Operator,
    /// The deployment itself: what is finished, ended and removed on schedule.
    System,
}

impl ActorKind {
    /// The name in the table and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Session => "session",
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }
}

/// The request that a change belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub request: RequestId,
    /// The address it came from, as the gateway or the listening socket saw it. Never a header that callers set.
    pub source_ip: Option<IpAddr>,
    /// The trace that the caller or the gateway says it belongs to. A claim, only good for finding things together.
    pub trace: Option<String>,
}

/// Who acts. Every scope that can write carries one, so that no change is without an author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// What kind of actor.
    pub kind: ActorKind,
    /// The credential's public id, for callers.
    pub credential: Option<KeyId>,
    /// The request, for callers.
    pub origin: Option<Origin>,
}

impl Actor {
    /// One of ours: no credential, no request.
    pub(crate) const fn ours(kind: ActorKind) -> Self {
        Self { kind, credential: None, origin: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_actor_has_the_name_that_trails_are_searched_by() {
        use ActorKind::{Agent, Operator, Platform, Session, System};
        let names = [Platform, Session, Agent, Operator, System].map(ActorKind::as_str);
        assert_eq!(names, ["platform", "session", "agent", "operator", "system"]);
    }
}

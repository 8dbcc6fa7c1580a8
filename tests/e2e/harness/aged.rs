//! A platform, sessions and agents that have been there for a while. Ids tell when what they name was made, and nobody
//! looks for log entries of before: what is to have a history must have the id of something older.

use super::{Client, Platform, dynamodb, own_deployment, stack};
use serde_json::{Value, json};
use theazo_store::{Agent, Agents, NewLog, Session, Sessions};
use theazo_store::{LogQueue, LogWriter, Platforms, now_ms};
use theazo_tenancy::{AgentId, AgentPlace, Mode, Operator, PlatformId, SessionId, TableKey, TenantScope};

/// A platform's test mode, and how old it and all that is made in it is.
pub struct Aged {
    /// Calls with its test key.
    pub client: Client,
    scope: TenantScope,
    age_ms: i64,
}

impl Aged {
    #[expect(clippy::disallowed_methods, reason = "a test makes its platform as the operator does")]
    pub async fn make(name: &str, age_ms: i64) -> Self {
        let young = Platform::make(name).await;
        let operator = Operator::assume();
        let id = PlatformId::make_at(now_ms() - age_ms);
        let keys = [operator.platform_key(&young.id), operator.platform_key(&id)];
        copy(&keys, json!({ "id": { "S": id } })).await;
        let platforms = Platforms::new(own_deployment().table().clone(), Operator::assume());
        let (_, key) = platforms.create_key(&id, Mode::Test, "of an old platform").await.unwrap();
        let client = young.client.with_key(Some(&key.text));
        Self { client, scope: operator.tenant(&id, Mode::Test), age_ms }
    }

    /// Makes a session of that age.
    pub async fn session(&self, user: &str) -> Session {
        let young = SessionId::parse(&self.client.session(user).await).unwrap();
        let id = SessionId::make_at(now_ms() - self.age_ms);
        let keys = [&young, &id].map(|id| self.scope.session(id).unwrap().key());
        copy(&keys, json!({ "id": { "S": id } })).await;
        let sessions = Sessions::new(own_deployment().table().clone());
        sessions.get(&self.scope, &id).await.unwrap().unwrap()
    }

    /// Makes an agent of that age in a session. Nothing looks after it but those who name it.
    pub async fn agent(&self, session: &Session) -> Agent {
        let young = self.client.session("who has an agent").await;
        let young = (self.client.boot(&young, json!({})).await, SessionId::parse(&young).unwrap());
        let id = AgentId::make_at(now_ms() - self.age_ms);
        let (platform, mode) = (self.scope.platform(), self.scope.mode());
        let place = AgentPlace { platform, mode, session: &session.id, agent: &id };
        let tag = own_deployment().config().credential_key.as_ref().unwrap().seal_agent(place);
        let booted = self.scope.agent_key(&AgentId::parse(&young.0).unwrap()).unwrap();
        for to in
            [self.scope.agent_key(&id).unwrap(), self.scope.session(&session.id).unwrap().agents().row(id.as_str())]
        {
            let changes = json!({
                "id": { "S": id }, "session": { "S": session.id }, "user_id": { "S": session.user_id },
                "tag": { "S": hex::encode(tag) },
            });
            copy(&[booted.clone(), to], changes).await;
        }
        self.client.terminate(young.1.as_str()).await;
        Agents::new(own_deployment().table().clone()).get(&self.scope, &id).await.unwrap().unwrap()
    }

    /// Writes entries of that long ago, in their order.
    pub async fn write(&self, ago_ms: i64, entries: Vec<NewLog>) {
        let writer = LogWriter::new(own_deployment().table().clone(), LogQueue::default());
        writer.with_clock_offset(-ago_ms).append(&self.scope, entries).await.unwrap();
    }
}

/// Copies a row to another key, with some attributes of its own.
async fn copy([from, to]: &[TableKey; 2], changes: Value) {
    let url = stack().dynamodb_url();
    let table = &stack().deployment().config().table;
    let key = |key: &TableKey| json!({ "pk": { "S": key.pk() }, "sk": { "S": key.sk() } });
    let read = json!({ "TableName": table, "Key": key(from), "ConsistentRead": true });
    let mut row = dynamodb(&url, "GetItem", read).await["Item"].clone();
    assert!(row.is_object(), "there is nothing to copy at {from:?}");
    for attributes in [key(to), changes] {
        row.as_object_mut().unwrap().extend(attributes.as_object().unwrap().clone());
    }
    dynamodb(&url, "PutItem", json!({ "TableName": table, "Item": row })).await;
}

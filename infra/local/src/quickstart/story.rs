//! The story itself.

use super::client::Client;
use crate::Stack;
use crate::scratch::{Account, Failure, left_on_engine};
use crate::terminal::say;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Names as a platform might give them; an agent sees them uppercased.
const NAMES: [&str; 3] = ["HUBSPOT_API_KEY", "database_url", "StripeKey"];

const PYTHON: &str = r#"
import hashlib, json, os, sys
names = json.load(sys.stdin)
seen = {n: [len(os.environ[n].encode()), hashlib.sha256(os.environ[n].encode()).hexdigest()] for n in names if n in os.environ}
print(json.dumps(seen))
"#;

const NODE: &str = r#"
const { createHash } = require("crypto");
const names = JSON.parse(require("fs").readFileSync(0, "utf8"));
const seen = {};
for (const n of names) {
  const v = process.env[n];
  if (v !== undefined) seen[n] = [Buffer.byteLength(v), createHash("sha256").update(v).digest("hex")];
}
console.log(JSON.stringify(seen));
"#;

fn heading(number: u32, text: &str) {
    say(&format!("\n {number}  {text}"));
}

fn ensure(holds: bool, claim: &str) -> Result<(), Failure> {
    if !holds {
        return Err(format!("this did not hold: {claim}").into());
    }
    say(&format!("    ok: {claim}"));
    Ok(())
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, Failure> {
    value[name].as_str().ok_or_else(|| format!("the answer has no {name}").into())
}

/// Length and SHA-256 of a value, by the name an agent sees.
fn fingerprint(name: &str, value: &str) -> (String, Value) {
    (name.to_uppercase(), json!([value.len(), hex::encode(Sha256::digest(value.as_bytes()))]))
}

/// Makes the platform's account known, its key in the vault: agents run there from then on.
async fn configure(client: &Client, account: &Account) -> Result<(), Failure> {
    let Account { provider, name, secret, key, config, .. } = account;
    heading(0, &format!("The account at {name}: its key is a secret of the platform"));
    let shown = format!("{{{secret}: ...}}");
    client.call(Method::POST, "/v1/secrets", Some(&json!({ *secret: key })), &shown, 204).await?;
    let body = json!({ "credentialRef": secret, "config": config });
    client.call(Method::PUT, &format!("/v1/providers/{provider}"), Some(&body), &body.to_string(), 200).await?;
    let listed = client.call(Method::GET, "/v1/providers", None, "", 200).await?;
    let held = format!("{name} accepts the key; no agent will ever be given it");
    ensure(listed["data"][0]["health"]["healthy"] == true, &held)
}

pub(super) async fn tell(
    stack: &Stack,
    base: String,
    stopping: Arc<AtomicBool>,
    account: Option<&Account>,
) -> Result<(), Failure> {
    let key = stack.data_dir().read("api-key")?.ok_or("the stack has written no key")?;
    let client = Client::new(base, key, stopping);

    if let Some(account) = account {
        configure(&client, account).await?;
    }

    heading(1, "The API key says who is calling");
    let who = client.call(Method::GET, "/v1/whoami", None, "", 200).await?;
    say(&format!("    platform {}, {} environment", text(&who, "platformId")?, text(&who, "environment")?));

    heading(2, "A session keeps one end user apart from all others");
    let session = client.call(Method::POST, "/v1/sessions/by-user/user_123", None, "", 200).await?;
    let session = text(&session, "id")?.to_owned();
    say(&format!("    {session} is user_123's session, now and at every later call"));

    heading(3, "Three secrets go into the vault");
    let values: Vec<(String, String)> = NAMES
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let random = hex::encode(theazo_tenancy::make_random_bytes::<24>());
            ((*name).to_owned(), random.chars().take(20 + 9 * index).collect())
        })
        .collect();
    let body: Value = values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let secrets = format!("/v1/sessions/{session}/secrets");
    let shown = format!("{{{}}}", NAMES.map(|name| format!("{name}: ...")).join(", "));
    client.call(Method::POST, &secrets, Some(&body), &shown, 204).await?;
    say("    each is sealed under a key of its own, derived from a root key that only KMS can unwrap");

    heading(4, "Names can be listed; no route returns a value");
    let listed = client.call(Method::GET, &secrets, None, "", 200).await?;
    say(&format!("    {listed}"));
    let mut sorted = NAMES;
    sorted.sort_unstable();
    ensure(listed == json!(sorted), "exactly the three names, sorted, as they were written")?;

    heading(5, "An agent boots in a sandbox of its own");
    let first = boot(&client, &session).await?;

    heading(6, "Every process in it sees the secrets as uppercase environment variables");
    let expected: Value = values.iter().map(|(name, value)| fingerprint(name, value)).collect();
    compare(&client, &first, &expected).await?;

    heading(7, "A secret is deleted: the running agent keeps it, the next boot does not have it");
    client.call(Method::DELETE, &format!("{secrets}/hubspot_api_key"), None, "", 204).await?;
    let still = look(&client, &first, "python", PYTHON).await?;
    ensure(still == expected, "the running agent still has all three")?;
    let second = boot(&client, &session).await?;
    let mut without = expected.clone();
    without.as_object_mut().and_then(|map| map.remove("HUBSPOT_API_KEY"));
    let seen = look(&client, &second, "node", NODE).await?;
    ensure(seen == without, "the next agent has the other two and not HUBSPOT_API_KEY")?;

    heading(8, "Another user's session sees none of it");
    let other = client.call(Method::POST, "/v1/sessions/by-user/user_456", None, "", 200).await?;
    let other = text(&other, "id")?.to_owned();
    let listed = client.call(Method::GET, &format!("/v1/sessions/{other}/secrets"), None, "", 200).await?;
    ensure(listed == json!([]), "no names")?;
    let third = boot(&client, &other).await?;
    let seen = look(&client, &third, "python", PYTHON).await?;
    ensure(seen == json!({}), "its agent has none of the variables")?;

    heading(9, "Terminating leaves nothing behind");
    client.call(Method::POST, &format!("/v1/agents/{first}/terminate"), None, "", 200).await?;
    for session in [&session, &other] {
        client.call(Method::POST, &format!("/v1/sessions/{session}/terminate"), None, "", 200).await?;
    }
    match account {
        None => {
            let left = left_on_engine(stack).await?;
            ensure(left.is_empty(), "no container, network or volume of ours is left on the engine")?;
        }
        Some(Account { name, emulator, .. }) => {
            ensure(emulator.left().is_empty(), &format!("nothing, running or paused, is left at {name}"))?;
            let records = emulator.records()?;
            let shown = values.iter().any(|(_, value)| records.contains(value.as_str()));
            ensure(!shown, &format!("nothing that {name} would have logged or stored has a value in it"))?;
        }
    }
    say("\nAll of it held. Next: `cargo dev`, then the tour in README.md.");
    Ok(())
}

async fn boot(client: &Client, session: &str) -> Result<String, Failure> {
    let path = format!("/v1/sessions/{session}/agents");
    let agent = client.call(Method::POST, &path, Some(&json!({})), "", 201).await?;
    ensure(agent["status"] == "ready", "the agent is ready")?;
    Ok(text(&agent, "id")?.to_owned())
}

/// What a program in the agent sees of the three variables: length and SHA-256 by name.
async fn look(client: &Client, agent: &str, language: &str, code: &str) -> Result<Value, Failure> {
    let names = json!(NAMES.map(str::to_uppercase)).to_string();
    let body = json!({ "language": language, "code": code, "stdin": names });
    let path = format!("/v1/agents/{agent}/exec");
    let ran = client.call(Method::POST, &path, Some(&body), &format!("({language})"), 200).await?;
    if ran["exitCode"] != 0 {
        return Err(format!("the program failed: {}", ran["stderr"]).into());
    }
    Ok(serde_json::from_str(text(&ran, "stdout")?)?)
}

async fn compare(client: &Client, agent: &str, expected: &Value) -> Result<(), Failure> {
    for (language, code) in [("python", PYTHON), ("node", NODE)] {
        let seen = look(client, agent, language, code).await?;
        for (name, wanted) in expected.as_object().into_iter().flatten() {
            say(&format!("    {name:<16} expected {} bytes, SHA-256 {}", wanted[0], wanted[1]));
            say(&format!("    {:<16} {language:<8} {} bytes, SHA-256 {}", "", seen[name][0], seen[name][1]));
        }
        ensure(seen == *expected, &format!("{language} sees all three, byte for byte"))?;
    }
    Ok(())
}

//! A reader in another language over rows as they lie in the table: what the store writes is what the vault's published
//! page says, and what was moved or edited does not open there either.

use crate::support::{DEPLOYMENT, Item, World, name, number, operator, own, secret, text};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::primitives::Blob;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use theazo_store::{AgentCopies, NewSecret, ProviderCredentials, SecretSelection, SecretTarget, now_ms};
use theazo_tenancy::{AgentId, Mode, Partition, TenantScope};

/// What a reader is authorised for, and the keys that it was given.
#[derive(Clone)]
struct Request {
    root_version: String,
    root_key: String,
    key_version: String,
    salt: String,
    deployment: String,
    platform: String,
    mode: String,
    /// `platform`, `session ID` or `agent ID`.
    scope: String,
}

/// A sealed row, who may read it, and what it holds.
struct Sealed {
    request: Request,
    row: Item,
    value: String,
}

/// A case for the reader, in the form of a golden file, and what it must answer.
struct Case {
    input: String,
    what: String,
    expected: Option<Vec<u8>>,
}

/// A partition, its scope as the reader writes it, and the names and values in it.
type Place<'a> = (Partition, String, &'a [(&'a str, &'a str)]);

fn column(row: &Item, name: &str) -> String {
    match row.get(name) {
        Some(AttributeValue::S(text) | AttributeValue::N(text)) => text.clone(),
        Some(AttributeValue::Bool(flag)) => flag.to_string(),
        Some(AttributeValue::B(bytes)) => hex::encode(bytes),
        None => "none".into(),
        Some(_) => panic!("{name} is of another type"),
    }
}

fn case(request: &Request, row: &Item, what: impl Into<String>, expected: Option<&str>) -> Case {
    let purpose = match (request.scope.starts_with("agent "), column(row, "provider").as_str()) {
        (true, _) => "agent-copy",
        (false, "true") => "provider-credential",
        (false, _) => "agent-secret",
    };
    let mut input = String::new();
    let mut put = |key: &str, value: &str| writeln!(input, "{key} = {value}").unwrap();
    put("root_version", &request.root_version);
    put("root_key", &request.root_key);
    put("platform_key_version", &request.key_version);
    put("platform_salt", &request.salt);
    put("deployment", &request.deployment);
    put("platform", &request.platform);
    put("mode", &request.mode);
    put("scope", &request.scope);
    put("purpose", purpose);
    put("name", &column(row, "sk"));
    for key in ["version", "expires_at_ms", "mask", "inherit"] {
        put(key, &column(row, key));
    }
    put("record", &column(row, "blob"));
    Case { input, what: what.into(), expected: expected.map(|value| value.as_bytes().to_vec()) }
}

/// The root key, unwrapped with the SDK alone: a row's columns are its encryption context.
async fn root_key(world: &World, sort_key: &str) -> (String, String) {
    let row = world.row(&operator().root_keys().row(sort_key)).await.unwrap();
    let context = [
        ("theazo:purpose", "root-key".to_owned()),
        ("theazo:deployment", DEPLOYMENT.to_owned()),
        ("theazo:row", sort_key.to_owned()),
        ("theazo:version", column(&row, "version")),
        ("theazo:created-at-ms", column(&row, "created_at_ms")),
        ("theazo:kms-key-arn", column(&row, "kms_key_arn")),
    ];
    let context: HashMap<String, String> = context.map(|(key, value)| (key.to_owned(), value)).into();
    let ciphertext = Blob::new(row["ciphertext"].as_b().unwrap().as_ref());
    let asked = world.kms.decrypt().key_id(&world.kms_key_arn).ciphertext_blob(ciphertext);
    let answer = asked.set_encryption_context(Some(context)).send().await.unwrap();
    (column(&row, "version"), hex::encode(answer.plaintext.unwrap()))
}

async fn request(world: &World, scope: &TenantScope) -> Request {
    let (root_version, root_key_1) = root_key(world, "active").await;
    let (_, root_key_2) = root_key(world, "version#0000000001").await;
    assert!(root_key_1 == root_key_2, "the active row is the first version");
    let platform = world.row(&scope.platform_key()).await.unwrap();
    Request {
        root_version,
        root_key: root_key_1,
        key_version: column(&platform, "vault_key_version"),
        salt: column(&platform, "vault_salt"),
        deployment: DEPLOYMENT.into(),
        platform: scope.platform().as_str().into(),
        mode: "live".into(),
        scope: "platform".into(),
    }
}

/// Secrets of every kind, set through the store, as rows.
async fn sealed(world: &World, scope: &TenantScope) -> Vec<Sealed> {
    let session = world.session(scope).await;
    let (mine, platform) = (own(&session), SecretTarget::Platform);
    let long = "langer Wert \u{e4}\u{1f511} ".repeat(400);
    let expiring = NewSecret { expires_at_ms: Some(now_ms() + 3_600_000), ..secret("EXPIRING", "soon gone") };
    let bare = NewSecret { mask: false, inherit: false, ..secret("BARE", "unmasked") };
    world.set(scope, &platform, &[secret("SHARED", "of the platform"), secret("KEY", "sk-1"), bare]).await.unwrap();
    world.set(scope, &mine, &[secret("OWN", "replaced"), secret("LONG", &long), expiring]).await.unwrap();
    world.set(scope, &mine, &[secret("OWN", "of the session"), secret("EMPTY", "")]).await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    credentials.configure(scope, "e2b", &name("KEY")).await.unwrap();

    let agent = AgentId::make();
    let copies = AgentCopies::new(world.table.clone(), world.keys.clone());
    let secrets = world.opener().load(scope, &session.id).await.unwrap();
    let opened = world.opener().open(scope, &secrets, &SecretSelection::All, now_ms()).await.unwrap();
    let made = copies.seal(scope, &agent, &secrets, &opened, now_ms() + 3_600_000).await.unwrap();
    copies.keep(made).await.unwrap();

    let request = request(world, scope).await;
    let own_scope = scope.session(&session.id).unwrap();
    let places: [Place; 3] = [
        (
            scope.secret_values().unwrap(),
            "platform".into(),
            &[("SHARED", "of the platform"), ("KEY", "sk-1"), ("BARE", "unmasked")],
        ),
        (
            own_scope.secret_values(),
            format!("session {}", session.id.as_str()),
            &[("OWN", "of the session"), ("LONG", &long), ("EXPIRING", "soon gone"), ("EMPTY", "")],
        ),
        (
            scope.agent_copies(&agent).unwrap(),
            format!("agent {}", agent.as_str()),
            &[("SHARED", "of the platform"), ("OWN", "of the session"), ("EXPIRING", "soon gone")],
        ),
    ];
    let mut found = Vec::new();
    // What vouches for the list of the copies: a record like any other, with nothing in it.
    let beside =
        world.scan().await.into_iter().filter(|row| column(row, "pk") == scope.agent_copies(&agent).unwrap().pk());
    let vouching: Vec<_> = beside.filter(|row| column(row, "sk").starts_with('0')).collect();
    let [vouching] = &vouching[..] else { panic!("{} records vouch for one list", vouching.len()) };
    let as_agent = Request { scope: format!("agent {}", agent.as_str()), ..request.clone() };
    found.push(Sealed { request: as_agent, row: vouching.clone(), value: String::new() });
    for (partition, place, values) in places {
        for (name, value) in values {
            let row = world.row(&partition.row(name)).await.unwrap();
            let request = Request { scope: place.clone(), ..request.clone() };
            found.push(Sealed { request, row, value: (*value).to_owned() });
        }
    }
    found
}

/// The rows as they are, each under each other's key.
fn moves(sealed: &[Sealed], cases: &mut Vec<Case>) {
    for (i, from) in sealed.iter().enumerate() {
        for (j, to) in sealed.iter().enumerate() {
            let mut row = from.row.clone();
            for key in ["pk", "sk"] {
                row.insert(key.into(), to.row[key].clone());
            }
            let place = |sealed: &Sealed| format!("{} {}", sealed.request.scope, column(&sealed.row, "sk"));
            let what = format!("{} under {}", place(from), place(to));
            cases.push(case(&to.request, &row, what, (i == j).then_some(from.value.as_str())));
        }
    }
}

/// Each row with one column or one part of the request changed.
fn edits(sealed: &[Sealed], other: &Request, cases: &mut Vec<Case>) {
    for Sealed { request, row, .. } in sealed {
        let what = |change: &str| format!("{} {} with {change}", request.scope, column(row, "sk"));
        let mut edit = |name: &str, value: AttributeValue| {
            let mut edited = row.clone();
            assert!(edited.insert(name.into(), value.clone()) != Some(value), "{name} is changed");
            cases.push(case(request, &edited, what(name), None));
        };
        let version: i64 = column(row, "version").parse().unwrap();
        edit("version", number(version + 1));
        edit("version", number(version - 1));
        edit("expires_at_ms", number(now_ms() + 7_200_000));
        for flag in ["mask", "inherit"] {
            edit(flag, AttributeValue::Bool(column(row, flag) != "true"));
        }
        if !request.scope.starts_with("agent ") {
            edit("provider", AttributeValue::Bool(column(row, "provider") != "true"));
        }
        edit("sk", text("OTHER"));
        if row.contains_key("expires_at_ms") {
            let mut edited = row.clone();
            edited.remove("expires_at_ms");
            cases.push(case(request, &edited, what("no expiry"), None));
        }

        let mut ask = |change: &str, asked: Request| cases.push(case(&asked, row, what(change), None));
        ask("another deployment", Request { deployment: "staging".into(), ..request.clone() });
        ask("another mode", Request { mode: "test".into(), ..request.clone() });
        ask("another platform", Request { platform: other.platform.clone(), ..request.clone() });
        ask("another salt", Request { salt: other.salt.clone(), ..request.clone() });
        ask("another platform and salt", Request { scope: request.scope.clone(), ..other.clone() });
        ask("another root version", Request { root_version: "2".into(), ..request.clone() });
        ask("another key version", Request { key_version: "2".into(), ..request.clone() });
        if let Some((kind, _)) = request.scope.split_once(' ') {
            ask("another owner", Request { scope: format!("{kind} other"), ..request.clone() });
        }
    }
}

/// One record with every bit flipped in turn, cut at every length, and longer by a byte or a block.
fn damages(Sealed { request, row, .. }: &Sealed, cases: &mut Vec<Case>) {
    let blob = row["blob"].as_b().unwrap().as_ref();
    let mut damage = |what: String, blob: Vec<u8>| {
        let mut row = row.clone();
        row.insert("blob".into(), AttributeValue::B(blob.into()));
        cases.push(case(request, &row, what, None));
    };
    for bit in 0..blob.len() * 8 {
        let mut flipped = blob.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        damage(format!("bit {bit} flipped"), flipped);
    }
    (0..blob.len()).for_each(|len| damage(format!("cut to {len}"), blob[..len].to_vec()));
    for extra in [1, 64] {
        damage(format!("{extra} bytes more"), [blob, &vec![0; extra]].concat());
    }
}

/// What the reader answers: a value, or `None` for a refusal. `None` altogether without Python or its package.
fn read(cases: &[Case]) -> Option<Vec<Option<Vec<u8>>>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reader/reader.py");
    let python = std::env::var_os("THEAZO_PYTHON").unwrap_or_else(|| "python3".into());
    let started = Command::new(python).arg("-B").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut reader = started.ok()?;
    let input: String = cases.iter().map(|case| format!("{}\n", case.input)).collect();
    // It answers only after it has read everything. Without its package it exits before, and its exit code says so.
    let _ = reader.stdin.take().unwrap().write_all(input.as_bytes());
    let output = reader.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        return None;
    }
    assert!(output.status.success(), "the reader failed");
    let answers = String::from_utf8(output.stdout).unwrap();
    let answer = |line: &str| match line.strip_prefix("value ") {
        Some(value) => Some(hex::decode(value).unwrap()),
        None => {
            assert_eq!(line, "refused");
            None
        }
    };
    Some(answers.lines().map(answer).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_in_another_language_opens_the_tables_rows_and_refuses_what_was_moved_or_edited() {
    let world = World::start().await;
    let (scope, other) = (world.tenant().await, world.tenant().await);
    let sealed = sealed(&world, &scope).await;
    let other = request(&world, &other).await;
    // The same request as the store's own, but for the mode: the names of both are in the table's keys.
    assert_eq!(scope.mode(), Mode::Live);

    let mut cases = Vec::new();
    for Sealed { request, row, value } in &sealed {
        cases.push(case(request, row, format!("{} {}", request.scope, column(row, "sk")), Some(value)));
    }
    moves(&sealed, &mut cases);
    edits(&sealed, &other, &mut cases);
    let shared = sealed.iter().position(|sealed| column(&sealed.row, "sk") == "SHARED").unwrap();
    damages(&sealed[shared], &mut cases);

    let Some(answers) = read(&cases) else {
        let in_ci = std::env::var_os("THEAZO_CI").is_some_and(|ci| ci == "1");
        assert!(!in_ci, "needs python3 with the package `cryptography`");
        eprintln!("skipped: needs python3 with the package `cryptography`");
        return;
    };
    assert_eq!(answers.len(), cases.len());
    for (answer, case) in answers.iter().zip(&cases) {
        assert!(*answer == case.expected, "{}: opened is {}", case.what, answer.is_some());
    }
    let (opened, refused): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.expected.is_some());
    assert_eq!(opened.len(), 2 * sealed.len(), "each as it lies, twice");
    assert!(refused.len() > 1500, "{}", refused.len());
}
